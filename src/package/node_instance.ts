/** A Darkroom in Node: the owners that pages have in workers live in this thread, as ONNX Runtime computes in threads of its own. */
import { availableParallelism, totalmem } from 'node:os';
import * as Comlink from 'comlink';
import { StudioError } from '../core/errors.ts';
import { readAddress, secretOf } from '../core/remote.ts';
import { Engine } from '../engine/engine.ts';
import { MemoryFileStore } from '../recorder/memory_file_store.ts';
import { Recorder } from '../recorder/recorder.ts';
import { serve } from '../../workers/connection.ts';
import { GenerationOwner } from '../../workers/generation.ts';
import { RecorderOwner } from '../../workers/recorder_owner.ts';
import { RemoteOwner } from '../../workers/remote_owner.ts';
import { TaskRunner } from '../../workers/task_runner.ts';
import { RemoteWorkers } from '../jobs/remote_workers.ts';
import type { WorkerLike } from '../jobs/worker_link.ts';
import type { DarkroomOptions } from './contract.ts';
import { Instance, onlyInPage } from './instance.ts';
import { filesAt } from './node_files.ts';
import { loadNodeRuntime } from './node_runtime.ts';

/** Of the machine's memory, for networks and what flows between them. */
const MEMORY = 0.75;

/** @throws StudioError `invalid_operation` for what only a browser has, `checkpoint_incomplete`, `worker_failed` without onnxruntime-node */
export async function openInNode({ threads, checkpoints, servers = [] }: DarkroomOptions): Promise<Instance> {
  const computing = threads ?? availableParallelism();
  const runtime = await loadNodeRuntime(computing);
  const startEngine = () => Promise.resolve(Engine.onProcessor(runtime, computing, 'Runs on the processor, in Node.'));
  const given = Object.entries(checkpoints ?? {}).map(async ([name, where]) => [name, await filesAt(where)] as const);
  const entered = servers.map(({ engine, address, key = null, settings = {} }, at) => ({
    key,
    server: { id: `given-${at}`, engine, address: readAddress(address), settings, hasKey: key !== null },
  }));
  const secrets = entered.flatMap(({ key, server }) => (key === null ? [] : [[secretOf(server), key] as const]));
  return new Instance(
    {
      workers: {
        generation: () => inThisThread(new GenerationOwner({ resign: () => undefined, rate: null, startEngine })),
        task: () => inThisThread(new TaskRunner()),
        recorder: () => inThisThread(new NodeRecorder()),
        language: () => {
          throw onlyInPage();
        },
        // Node asks servers itself, so none has to let anybody in.
        remote: async (connect) => {
          const remote = new RemoteWorkers(connect, () => inThisThread(new RemoteOwner()));
          await remote.enter(entered.map(({ server }) => server));
          return remote;
        },
      },
      library: () => {
        throw new StudioError(
          'invalid_operation',
          'In Node nothing is fetched or stored: name the folders of checkpoints in "checkpoints" of createDarkroom.',
        );
      },
      start: { backend: 'wasm', memoryBytes: Math.round(MEMORY * totalmem()) },
      builtin: new URL('checkpoints/', import.meta.url).href,
      keepsRuns: false,
      secrets: Object.fromEntries(secrets),
    },
    Object.fromEntries(await Promise.all(given)),
  );
}

class NodeRecorder extends RecorderOwner {
  readonly #ports: MessagePort[] = [];

  constructor() {
    super(() =>
      Promise.resolve({ recorder: new Recorder(new MemoryFileStore()), report: { persistent: false, note: null } }),
    );
  }

  override connect(port: MessagePort): Promise<void> {
    this.#ports.push(port);
    return super.connect(port);
  }

  /** An open port would keep the program from ending. */
  close(): void {
    this.#ports.forEach((port) => port.close());
  }
}

/** Both sides see the same objects: nothing is copied, so files stay files. */
function inThisThread(owner: object): WorkerLike {
  const [here, there] = [new Side(), new Side()];
  here.other = there;
  there.other = here;
  void serve(owner, there);
  return Object.assign(here, {
    terminate: () => {
      here.other = there.other = null;
      if (owner instanceof NodeRecorder) {
        owner.close();
      }
    },
  });
}

class Side extends EventTarget {
  other: Side | null = null;

  postMessage(data: unknown): void {
    const { other } = this;
    queueMicrotask(() => other?.dispatchEvent(Object.assign(new Event('message'), { data })));
  }
}

// As nothing is copied, what is to be called from the other side is handed over as it is; a port for each would keep the program from ending.
Comlink.transferHandlers.set('proxy', {
  canHandle: (value): value is object => typeof value === 'function' || isProxied(value),
  serialize: (value: unknown) => [value, []],
  deserialize: (value: unknown) => value,
});

function isProxied(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Comlink.proxyMarker in value;
}
