/**
 * What page and workers say to one another: the workers' interfaces, and how errors and events cross over Comlink.
 * Compiled in the worker, page and Node worlds, so it uses only what all three have.
 */
import * as Comlink from 'comlink';
import { StudioError } from '../src/core/errors.ts';
import type { StudioErrorData } from '../src/core/errors.ts';
import type { DeviceReport, Entity, JobEvent, LedgerReport } from '../src/core/job.ts';
import type { CheckpointSummary } from '../src/core/model.ts';
import type { Operation } from '../src/core/operation.ts';

/** Where the bytes of a checkpoint are. `path` is relative to the checkpoint's own folder. */
export type CheckpointSource =
  { kind: 'builtin'; name: string } | { kind: 'folder'; name: string; files: { path: string; file: File }[] };

/** How the engine is started; `auto` and off where nothing is said. */
export interface StartOptions {
  backend?: 'auto' | 'webgpu' | 'wasm';
  /** What the UNet computes in; `auto` is f16 where the GPU can. */
  precision?: 'auto' | 'f32' | 'f16';
  /** Counts every launch for measurements, which slows the engine. */
  countLaunches?: boolean;
}

/** The owner of the GPU: one per generation worker. Calls may overlap; `execute` is called once at a time. */
export interface GenerationApi {
  /** Must be the first call. `recorder` speaks {@link RecorderApi}. */
  start(options: StartOptions & { recorder: MessagePort }): Promise<DeviceReport>;
  /** Reads configs and headers only. */
  openCheckpoint(source: CheckpointSource): Promise<CheckpointSummary>;
  /** Events are delivered in order, all of them before the answer; see {@link EventSender}. */
  execute(
    request: { jobId: string; operation: Operation; source: CheckpointSource },
    onEvent: (event: JobEvent) => void,
  ): Promise<{ run: string }>;
  /** Stops that job between two steps; its `execute` then rejects with `cancelled`. Unknown ids are no error. */
  cancel(jobId: string): Promise<void>;
  /** Where previews are drawn; null stops them. The canvas is transferred. */
  watch(canvas: OffscreenCanvas | null): Promise<void>;
  ledger(): Promise<LedgerReport>;
}

/** What is said about a run when it is opened. */
export interface RunOpening {
  config_name: string;
  /** The operation as accepted; `metadata.json` keeps its pictures as type and size only, so record them as entities. */
  operation: Operation;
  /** Entity types that the run is expected to produce, in order. */
  expected_outputs: string[];
}

export type RunStage = 'running' | 'completed' | 'failed' | 'cancelled';

/** `metadata.json` of one run folder. */
export interface RunRecord {
  schema_version: number;
  run_id: string;
  timestamp: string;
  device_id: string;
  config_name: string;
  operation: Operation | null;
  expected_outputs: string[];
  current_state: { stage: RunStage; error?: StudioErrorData };
  entities: RunEntity[];
}

/** One entry of {@link RunRecord.entities}; `sha256` is empty where a record was rebuilt from the files. */
export type RunEntity = Omit<Entity, 'run'>;

export interface StorageReport {
  /** False: recordings live in memory and end with this visit. */
  persistent: boolean;
  /** One sentence for the person when there is something to say. */
  note: string | null;
}

/** The owner of the recordings: one per recorder worker. Errors: `storage_unavailable`, `storage_full`. */
export interface RecorderApi {
  /** Serves this same interface on another port, for the generation worker. */
  connect(port: MessagePort): Promise<void>;
  storage(): Promise<StorageReport>;
  /** Creates the run's folder and returns its id. */
  openRun(opening: RunOpening): Promise<string>;
  /** Returns when the entity is saved and listed in `metadata.json`. */
  saveEntity(
    run: string,
    entityType: string,
    content: Blob | string | object,
    metadata?: Record<string, unknown>,
  ): Promise<Entity>;
  /** Writes how the run ended. */
  closeRun(run: string, stage: Exclude<RunStage, 'running'>, error?: StudioErrorData): Promise<void>;
  /** Newest first; `before` is the last run id of the previous page of results. */
  listRuns(options: { limit: number; before?: string }): Promise<RunRecord[]>;
  readRun(run: string): Promise<RunRecord>;
  readEntity(run: string, filename: string): Promise<Blob>;
  deleteRun(run: string): Promise<void>;
}

/** What a worker posts, beside Comlink's own messages, about itself. */
export type WorkerSignal =
  /** It serves these methods now. While it lives it holds the Web Lock `lock` (null where there are no Web Locks). */
  | { darkroom: 'ready'; methods: string[]; lock: string | null }
  /** A message to it could not be read, so whoever sent that will get no answer. */
  | { darkroom: 'unreadable' };

/** Makes a thrown StudioError arrive as one, with its code, sentence and cause. Runs once, on import, on both sides. */
function carryErrorsWhole(): void {
  const standard = Comlink.transferHandlers.get('throw');
  if (!standard) {
    throw new Error('Assertion failed: Comlink has a transfer handler named "throw"');
  }
  Comlink.transferHandlers.set('throw', {
    canHandle: (value): value is { value: unknown } => standard.canHandle(value),
    serialize: (thrown: { value: unknown }) => [StudioError.from(thrown.value).toData(), []],
    deserialize: (data: StudioErrorData): never => {
      throw StudioError.fromData(data);
    },
  });
}
carryErrorsWhole();

/** The other side's methods. Made here, so that whoever calls also knows how errors arrive. */
export function callsTo<Api>(endpoint: Comlink.Endpoint): Comlink.Remote<Api> {
  return Comlink.wrap<Api>(endpoint);
}

/** Serves `owner` on a port, such as the one between recorder and generation worker. */
export function serveOn(port: MessagePort, owner: object): void {
  Comlink.expose(owner, port);
}

/**
 * Serves `owner` to whoever made this worker and says that it is ready. The last line of every worker file.
 * @param scope the worker's global scope
 */
export async function serve(owner: object, scope: Comlink.Endpoint): Promise<void> {
  Comlink.expose(owner, scope);
  const say = (signal: WorkerSignal) => {
    scope.postMessage(signal);
  };
  scope.addEventListener('messageerror', () => {
    say({ darkroom: 'unreadable' });
  });
  say({ darkroom: 'ready', methods: methodsOf(owner), lock: await holdLock() });
}

/** Held until the worker ends for whatever reason: the only sign of life that needs no heartbeat. */
async function holdLock(): Promise<string | null> {
  // Absent outside secure contexts and in Node.
  const locks = (globalThis.navigator as { locks?: LockManager } | undefined)?.locks;
  if (!locks) {
    return null;
  }
  const name = `darkroom:worker:${crypto.randomUUID()}`;
  await new Promise<void>((held, refused) => {
    locks
      .request(name, () => {
        held();
        return new Promise<never>(() => {});
      })
      .catch(refused);
  });
  return name;
}

function methodsOf(owner: object): string[] {
  const names = new Set(Object.keys(owner));
  for (let level: unknown = Object.getPrototypeOf(owner); level && level !== Object.prototype;) {
    Object.getOwnPropertyNames(level).forEach((name) => names.add(name));
    level = Object.getPrototypeOf(level);
  }
  names.delete('constructor');
  return [...names];
}

/**
 * Sends a job's events from the worker. They cross on a port of their own, which can fall behind the call's answer,
 * so a worker awaits {@link delivered} before it answers.
 */
export class EventSender {
  #last: Promise<unknown> = Promise.resolve();
  readonly #onEvent: (event: JobEvent) => unknown;

  /** @param onEvent the callback as the worker received it (a Comlink proxy) */
  constructor(onEvent: (event: JobEvent) => unknown) {
    this.#onEvent = onEvent;
  }

  send(event: JobEvent): void {
    const acknowledged = Promise.resolve(this.#onEvent(event));
    this.#last = Promise.all([this.#last, acknowledged]);
    // A listener that is gone is no reason to fail; `delivered` reports what matters.
    this.#last.catch(() => {});
  }

  /** Resolves when everything sent so far has been received. */
  async delivered(): Promise<void> {
    await this.#last;
  }
}
