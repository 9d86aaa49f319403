/**
 * The in-page door, `globalThis.darkroom`, used by the command line, tests and any script in the page. It takes and returns the same
 * operations and jobs as the page; errors are StudioErrors.
 */
import type { Delta, DeviceReport, EngineState, Job, LedgerReport } from '../core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget } from '../core/model.ts';
import type { NamedFile } from '../core/named_files.ts';
import { parseOperation, type Operation } from '../core/operation.ts';
import type { Requirements } from '../core/plan.ts';
import type { Listing } from '../weights/library/library_api.ts';
import type { RunRecord } from '../recorder/recorder_api.ts';
import type { JobClient } from './client.ts';
import type { AskEngine } from './engine_questions.ts';
import type { LanguageEngines } from './language.ts';
import type { LibraryClient } from './library.ts';
import type { RecordingsClient } from './recordings.ts';
import type { RemoteWorkers } from './remote_workers.ts';
import type { QueueState } from './service.ts';

export interface Door {
  /** The engine's device, once it has started. */
  device(): Promise<DeviceReport>;
  /** Accepts an operation and returns its job, whose `id` the other calls take. */
  submit(operation: unknown, id?: string): Promise<Job>;
  /** Resolves with the job once it has completed, failed or been cancelled. */
  wait(id: string): Promise<Job>;
  cancel(id: string): Promise<Job>;
  /** Waiting and running ones, and ends "generate forever". */
  cancelAll(): Promise<void>;
  /** Reports the job now and after every change until it ends. Returns a function that stops. */
  follow(id: string, listener: (job: Job) => void): () => void;
  /** Streams a running job's words, starting with those so far. Returns a function that stops. */
  deltas(id: string, listener: (delta: Delta) => void): () => void;
  /** Keeps a key, such as a service's, in memory for the steps that ask for it; null forgets it. It is never recorded. */
  setSecret(name: string, value: string | null): void;
  /** Ended and running jobs by submission, then waiting ones in the order they will run. */
  list(): Promise<Job[]>;
  reorder(id: string, before: string | null): Promise<void>;
  repeat(id: string): Promise<Job>;
  /** The operation of a job that ended midway, with its finished steps' outputs as `given`; submit it to continue from there. */
  resumed(id: string): Promise<Operation>;
  /** What an operation needs, such as a language model for one of its steps. */
  requirements(operation: unknown): Requirements;
  /** Where an operation that was read from disk names files, which it must bring as Blobs or data URLs. */
  namedFiles(operation: unknown): NamedFile[];
  forever(id: string | null): Promise<void>;
  pause(isPaused: boolean): Promise<void>;
  queue(): Promise<QueueState>;
  /** Runs jobs in this tab from now on. */
  takeOver(): void;
  /** Opens a checkpoint folder, as files of an `<input type="file" webkitdirectory>`, or weight files that belong together. */
  openFolder(files: Iterable<File>): Promise<CheckpointSummary>;
  /** Opens a complete checkpoint of the library; operations may also just name its ref. */
  openStored(ref: string): Promise<CheckpointSummary>;
  /** Describes a listed checkpoint from configs and headers alone. */
  describe(listing: Listing, token: string | null): Promise<CheckpointSummary>;
  /** What a run on an open, built-in or stored checkpoint would need, and whether it fits. */
  estimate(checkpoint: string, request: EstimateRequest): Promise<Estimate>;
  /** Sets the GPU memory to plan with, in bytes; null = a guess. */
  planWith(memoryBytes: number | null): Promise<MemoryBudget>;
  /** Checkpoints stored in this browser, and adding more. */
  library: LibraryClient;
  /** Language models and voices, asked directly. */
  language: LanguageEngines;
  /** Servers on other machines: the kinds there are, and entering some. */
  remote(): Promise<Pick<RemoteWorkers, 'engines' | 'enter' | 'probe' | 'readAddress'>>;
  /** Recordings: search, stars, retention, import. */
  recordings: RecordingsClient;
  runs(options: { limit: number; before?: string }): Promise<RunRecord[]>;
  run(run: string): Promise<RunRecord>;
  /** One recorded file. */
  entity(run: string, filename: string): Promise<Blob>;
  ledger(): Promise<LedgerReport>;
  /** The model on the device. */
  engine(): Promise<EngineState>;
  /** Loads what an operation runs on, if it certainly fits, so that its job starts at once. */
  prepare(operation: unknown): Promise<void>;
  /** Frees the device, unless a job runs. */
  unload(): Promise<void>;
  /** Answers the routes and the channel about anything but jobs: the engine, and this browser's checkpoints. */
  askEngine: AskEngine;
}

declare global {
  var darkroom: Door | undefined;
}

export function exposeDoor(client: JobClient, askEngine: AskEngine): void {
  globalThis.darkroom = {
    device: () => client.device,
    submit: async (operation, id) => client.submit(parseOperation(operation), id),
    wait: (id) => client.wait(id),
    cancel: (id) => client.cancel(id),
    cancelAll: () => client.cancelAll(),
    follow: (id, listener) => client.follow(id, listener),
    deltas: (id, listener) => client.deltas(id, listener),
    setSecret: (name, value) => client.setSecret(name, value),
    list: () => client.list(),
    reorder: (id, before) => client.reorder(id, before),
    repeat: (id) => client.repeat(id),
    resumed: (id) => client.resumed(id),
    requirements: (operation) => client.requirements(parseOperation(operation)),
    namedFiles: (operation) => client.namedFiles(parseOperation(operation)),
    remote: () => client.remote,
    forever: (id) => client.forever(id),
    pause: (isPaused) => client.pause(isPaused),
    queue: () => client.queue(),
    takeOver: () => client.takeOver(),
    openFolder: (files) =>
      client.openFolder([...files].map((file) => ({ path: file.webkitRelativePath || file.name, file }))),
    openStored: (ref) => client.openStored(ref),
    describe: (listing, token) => client.describe(listing, token),
    estimate: (checkpoint, request) => client.estimate(checkpoint, request),
    planWith: (memoryBytes) => client.planWith(memoryBytes),
    library: client.library,
    language: client.language,
    recordings: client.recordings,
    runs: (options) => client.runs(options),
    run: (run) => client.run(run),
    entity: (run, filename) => client.entity(run, filename),
    ledger: () => client.ledger(),
    engine: () => client.engineState(),
    prepare: async (operation) => client.prepare(parseOperation(operation)),
    unload: () => client.unload(),
    askEngine,
  };
}
