/**
 * What a file in this folder exports: an engine that runs elsewhere, on another machine or behind a person's key. A chunk names the one it
 * needs (`needs.remote`); the folder is the registry. Everything here runs in a worker that can only reach the addresses the person entered
 * (`workers/remote.worker.ts`).
 */
import type { ComfySurvey } from '../core/comfyui.ts';
import { StudioError } from '../core/errors.ts';
import type { EngineFacts, Probe, RemoteServer, SignInProof, Usage } from '../core/remote.ts';
import type { TextService } from '../core/text_service.ts';

export interface RemoteEngine {
  /** Equals the file's name. */
  id: string;
  label: { en: string; de: string };
  /** How its servers are entered; absent for an engine without servers. */
  servers?: Omit<EngineFacts, 'id' | 'label'>;
  /**
   * Probes a server.
   * @param origin of the page, for the flag that lets it ask
   * @returns one sentence on what is wrong if it does not answer
   */
  probe?(server: RemoteServer, surroundings: ProbeSurroundings): Promise<Probe>;
  /** What its servers make of a person's own workflow, before anything is sent; absent for an engine without workflows. */
  survey?(workflow: unknown, surroundings: EngineSurroundings): Promise<ComfySurvey>;
  /**
   * Exchanges what a person came back with from the service's own page for a key (PKCE); absent where keys are typed.
   * @throws StudioError where it is not taken
   */
  signIn?(server: RemoteServer, proof: SignInProof, signal: AbortSignal): Promise<string>;
  /**
   * Opened anew for each step that needs it.
   * @returns what chunks work with; its interface is a file of `src/core`, as chunks import nothing else. Of one that `writes`, a `TextService`.
   * @throws StudioError one sentence that says what is wrong, such as a server that does not run or a key that is not taken
   */
  open(surroundings: EngineSurroundings): Promise<unknown>;
}

export interface ProbeSurroundings {
  /** As typed, or as kept; null = none. */
  key: string | null;
  origin: string;
  signal: AbortSignal;
}

export interface EngineSurroundings {
  /** Those of this engine that the person entered, in their order. */
  servers: () => Promise<RemoteServer[]>;
  /** A key that the person entered; never returned, recorded or logged. Rejects with `invalid_operation` when there is none of this name. */
  secret: (name: string) => Promise<string>;
  /** Sums up what a request to a server took, as the service told it. */
  used: (server: RemoteServer, usage: Usage) => void;
  /** Aborted when the job is cancelled: what is under way elsewhere is then stopped there too. */
  signal: AbortSignal;
}

const files = import.meta.glob<RemoteEngine>(['./*.ts', '!./engine.ts'], { import: 'engine' });

/** @throws StudioError `internal` for an engine that is not here, else its own */
export async function openEngine(id: string, surroundings: EngineSurroundings): Promise<unknown> {
  return (await engineNamed(id)).open(surroundings);
}

/** @throws StudioError `internal` for an engine that is not here, `invalid_operation` for one that does not write, else its own */
export async function openWriter(id: string, surroundings: EngineSurroundings): Promise<TextService> {
  const engine = await engineNamed(id);
  if (!engine.servers?.writes) {
    throw new StudioError('invalid_operation', `The engine "${id}" does not write; choose another language model.`);
  }
  return (await engine.open(surroundings)) as TextService;
}

/** @throws StudioError `internal` for an engine that is not here or cannot be asked, else its own */
export async function probeServer(server: RemoteServer, surroundings: ProbeSurroundings): Promise<Probe> {
  const engine = await engineNamed(server.engine);
  return engine.probe
    ? engine.probe(server, surroundings)
    : { isUp: true, sentence: 'It is not asked before it is used.' };
}

/** @throws StudioError `internal` for an engine that is not here or has no such page, else its own */
export async function signIn(server: RemoteServer, proof: SignInProof, signal: AbortSignal): Promise<string> {
  const engine = await engineNamed(server.engine);
  if (!engine.signIn) {
    throw new StudioError('internal', `Keys of "${server.engine}" are typed.`);
  }
  return engine.signIn(server, proof, signal);
}

/** @throws StudioError `internal` for an engine that has no workflows, else its own */
export async function surveyWorkflow(
  id: string,
  workflow: unknown,
  surroundings: EngineSurroundings,
): Promise<ComfySurvey> {
  const engine = await engineNamed(id);
  if (!engine.survey) {
    throw new StudioError('internal', `The engine "${id}" has no workflows.`);
  }
  return engine.survey(workflow, surroundings);
}

/** Those that servers are entered for. */
export async function engineFacts(): Promise<EngineFacts[]> {
  const engines = await Promise.all(Object.values(files).map((load) => load()));
  return engines.flatMap(({ id, label, servers }) => (servers ? [{ id, label, ...servers }] : []));
}

async function engineNamed(id: string): Promise<RemoteEngine> {
  const load = Object.hasOwn(files, `./${id}.ts`) ? files[`./${id}.ts`] : undefined;
  if (!load) {
    throw new StudioError('internal', `A step needs the engine "${id}", which this version of Darkroom does not have.`);
  }
  return load();
}
