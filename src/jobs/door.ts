/**
 * The in-page door, `globalThis.darkroom`: what the command line and tests use, and anybody's script in the page may.
 * It takes and gives the same operations and jobs as the page; errors are StudioErrors.
 */
import type { DeviceReport, Job, LedgerReport } from '../core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget } from '../core/model.ts';
import type { Listing, RunRecord } from '../../workers/protocol.ts';
import type { JobClient } from './client.ts';
import type { LibraryClient } from './library.ts';

export interface Door {
  /** The device that the engine runs on, once it is up. */
  device(): Promise<DeviceReport>;
  /** Accepts an operation and answers with its job, whose `id` the other calls take. */
  submit(operation: unknown): Job;
  /** Resolves with the job when it has completed, failed or been cancelled. */
  wait(id: string): Promise<Job>;
  cancel(id: string): Promise<void>;
  /** Tells of every change of the job until it has ended. */
  follow(id: string, listener: (job: Job) => void): void;
  /** Opens a checkpoint folder, as files of an `<input type="file" webkitdirectory>`. */
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
  runs(options: { limit: number; before?: string }): Promise<RunRecord[]>;
  run(run: string): Promise<RunRecord>;
  /** One recorded file. */
  entity(run: string, filename: string): Promise<Blob>;
  ledger(): Promise<LedgerReport>;
}

declare global {
  var darkroom: Door | undefined;
}

export function exposeDoor(client: JobClient): void {
  globalThis.darkroom = {
    device: () => client.device,
    submit: (operation) => client.submit(operation),
    wait: (id) => client.wait(id),
    cancel: (id) => client.cancel(id),
    follow: (id, listener) => {
      const tell = (jobs: Job[]) => {
        const job = jobs.find((one) => one.id === id);
        if (job) {
          listener(job);
        }
      };
      const stop = client.onChange(tell);
      tell(client.jobs);
      void client.wait(id).then(stop, stop);
    },
    openFolder: (files) =>
      client.openFolder([...files].map((file) => ({ path: file.webkitRelativePath || file.name, file }))),
    openStored: (ref) => client.openStored(ref),
    describe: (listing, token) => client.describe(listing, token),
    estimate: (checkpoint, request) => client.estimate(checkpoint, request),
    planWith: (memoryBytes) => client.planWith(memoryBytes),
    library: client.library,
    runs: (options) => client.runs(options),
    run: (run) => client.run(run),
    entity: (run, filename) => client.entity(run, filename),
    ledger: () => client.ledger(),
  };
}
