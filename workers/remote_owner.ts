/** Jobs with a step on another machine, and requests to its servers. */
import type { ComfySurvey } from '../src/core/comfyui.ts';
import { StudioError } from '../src/core/errors.ts';
import { readRemoteModel } from '../src/core/remote.ts';
import type { EngineFacts, Probe, RemoteServer, SignInProof, Usage } from '../src/core/remote.ts';
import type { TextDelta, TextRequest } from '../src/core/text_service.ts';
import { engineFacts, openWriter, probeServer, signIn, surveyWorkflow } from '../src/engines/engine.ts';
import type { JobPage, RemoteApi, Written } from './generation_api.ts';
import { TaskRunner } from './task_runner.ts';

export class RemoteOwner extends TaskRunner implements RemoteApi {
  readonly #writing = new Map<string, AbortController>();

  engines(): Promise<EngineFacts[]> {
    return engineFacts();
  }

  probe(server: RemoteServer, key: string | null): Promise<Probe> {
    const { signal } = new AbortController();
    return probeServer(server, {
      key,
      origin: (globalThis as { location?: { origin: string } }).location?.origin ?? '',
      signal,
    });
  }

  survey(workflow: unknown, servers: readonly RemoteServer[], keys: Record<string, string>): Promise<ComfySurvey> {
    return surveyWorkflow(servers[0]?.engine ?? 'comfyui', workflow, {
      servers: () => Promise.resolve([...servers]),
      secret: (name) => Promise.resolve(keys[name]),
      used: () => undefined,
      signal: new AbortController().signal,
    });
  }

  signIn(server: RemoteServer, proof: SignInProof): Promise<string> {
    return signIn(server, proof, new AbortController().signal);
  }

  async write(
    id: string,
    request: TextRequest,
    onDelta: (delta: TextDelta) => unknown,
    page: Pick<JobPage, 'servers' | 'secret'>,
  ): Promise<Written> {
    const named = readRemoteModel(request.model);
    if (!named) {
      throw new StudioError('invalid_operation', `"${request.model}" names no model on a server.`);
    }
    const controller = new AbortController();
    const { signal } = controller;
    this.#writing.set(id, controller);
    let usage: Usage = {};
    // Deltas cross on a port of their own, which can lag behind the answer.
    let told: Promise<unknown> = Promise.resolve();
    try {
      const writer = await openWriter(named.engine, {
        servers: () => page.servers(named.engine),
        secret: (name) => page.secret(name),
        used: (_, took) => (usage = took),
        signal,
      });
      const tell = (delta: TextDelta) => {
        told = Promise.all([told, Promise.resolve(onDelta(delta))]);
      };
      const result = await writer.generate(request, tell, signal);
      await told;
      return { result, usage };
    } finally {
      this.#writing.delete(id);
    }
  }

  stopWriting(id: string): Promise<void> {
    this.#writing.get(id)?.abort();
    return Promise.resolve();
  }
}
