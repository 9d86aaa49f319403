/**
 * The in-page door, `globalThis.darkroom`: what the command line and tests use, and anybody's script in the page may.
 * It takes and gives the same operations and jobs as the page; errors are StudioErrors.
 */
import type { Delta, DeviceReport, EngineState, Job, LedgerReport } from '../core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget } from '../core/model.ts';
import type { Operation } from '../core/operation.ts';
import type { Listing } from '../weights/library/library_api.ts';
import type { RunRecord } from '../recorder/recorder_api.ts';
import type { JobClient } from './client.ts';
import type { AskEngine } from './engine_questions.ts';
import type { LanguageEngines } from './language.ts';
import type { LibraryClient } from './library.ts';
import type { RecordingsClient } from './recordings.ts';
import type { QueueState } from './service.ts';

export interface Door {
  /** The device that the engine runs on, once it is up. */
  device(): Promise<DeviceReport>;
  /** Accepts an operation and answers with its job, whose `id` the other calls take. */
  submit(operation: unknown, id?: string): Promise<Job>;
  /** Resolves with the job when it has completed, failed or been cancelled. */
  wait(id: string): Promise<Job>;
  cancel(id: string): Promise<Job>;
  /** Waiting and running ones, and ends "generate forever". */
  cancelAll(): Promise<void>;
  /** Tells the job now and after every change until it has ended. Returns the way to stop. */
  follow(id: string, listener: (job: Job) => void): () => void;
  /** Tells the words that a running job says while they come into being, those so far at once. Returns the way to stop. */
  deltas(id: string, listener: (delta: Delta) => void): () => void;
  /** Keeps a key, such as that of a service, in memory for the steps that ask for it; null forgets it. It is never recorded. */
  setSecret(name: string, value: string | null): void;
  /** Ended and running jobs in order of submission, then the waiting ones in the order in which they will run. */
  list(): Promise<Job[]>;
  reorder(id: string, before: string | null): Promise<void>;
  repeat(id: string): Promise<Job>;
  /** The operation of a job that came to an end in the middle, with what its finished steps recorded as `given`: submit it to go on from there. */
  resumed(id: string): Promise<Operation>;
  /** Steps of an operation that run a language model, and whether it is to write or to speak. */
  languageSteps(operation: unknown): { id: string; service: 'text' | 'speech' }[];
  forever(id: string | null): Promise<void>;
  pause(isPaused: boolean): Promise<void>;
  queue(): Promise<QueueState>;
  /** Runs jobs in this tab from now on, whichever did before. */
  takeOver(): void;
  /** Opens a checkpoint folder, as files of an `<input type="file" webkitdirectory>`, or one `.safetensors` file. */
  openFolder(files: Iterable<File>): Promise<CheckpointSummary>;
  /** Opens a complete checkpoint of the library; operations may also just name its ref. */
  openStored(ref: string): Promise<CheckpointSummary>;
  /** What a listed checkpoint is, from configs and headers alone. */
  describe(listing: Listing, token: string | null): Promise<CheckpointSummary>;
  /** What a run on an open, built-in or stored checkpoint would need, and whether it fits. */
  estimate(checkpoint: string, request: EstimateRequest): Promise<Estimate>;
  /** Plans with this much GPU memory from now on, in bytes; null = a guess. */
  planWith(memoryBytes: number | null): Promise<MemoryBudget>;
  /** What is stored in this browser, and how more gets there. */
  library: LibraryClient;
  /** Language models and voices, asked directly. */
  language: LanguageEngines;
  /** What was made and kept: search, stars, what is kept, import. */
  recordings: RecordingsClient;
  runs(options: { limit: number; before?: string }): Promise<RunRecord[]>;
  run(run: string): Promise<RunRecord>;
  /** One recorded file. */
  entity(run: string, filename: string): Promise<Blob>;
  ledger(): Promise<LedgerReport>;
  /** What is on the device. */
  engine(): Promise<EngineState>;
  /** Brings to the device what an operation runs on, where that surely fits; its job then begins at once. */
  prepare(operation: unknown): Promise<void>;
  /** Frees the device, unless a job runs. */
  unload(): Promise<void>;
  /** What the routes and the channel ask beside jobs: the engine, and the checkpoints of this browser. */
  askEngine: AskEngine;
}

declare global {
  var darkroom: Door | undefined;
}

export function exposeDoor(client: JobClient, askEngine: AskEngine): void {
  globalThis.darkroom = {
    device: () => client.device,
    submit: (operation, id) => client.submit(operation, id),
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
    languageSteps: (operation) => client.languageSteps(operation),
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
    prepare: (operation) => client.prepare(operation),
    unload: () => client.unload(),
    askEngine,
  };
}
