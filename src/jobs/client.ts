/** The page's way to the workers: checkpoints, jobs and recordings. */
import * as Comlink from 'comlink';
import { StudioError } from '../core/errors.ts';
import type { DeviceReport, Job, LedgerReport } from '../core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget } from '../core/model.ts';
import { parseOperation } from '../core/operation.ts';
import type { CheckpointSource, Listing, RunRecord, StartOptions, StorageReport } from '../../workers/protocol.ts';
import { folderSource } from './folder_source.ts';
import type { FolderFile } from './folder_source.ts';
import { LibraryClient } from './library.ts';
import { createJobQueue } from './queue.ts';
import type { JobQueue } from './queue.ts';
import { drain } from './runner.ts';
import { WorkerPair } from './worker_pair.ts';

/** The checkpoint that comes with the page, which runs what names no other. */
const DEFAULT_CHECKPOINT = 'builtin:shapes';

const BUILTIN = /^builtin:([a-z0-9_-]+)$/;
const STORED = /^(hub|url|import):./;

export class JobClient {
  /** What is stored in this browser, and how more gets there. */
  readonly library: LibraryClient;
  readonly #workers: WorkerPair;
  readonly #queue: JobQueue<CheckpointSource>;
  readonly #sources = new Map<string, CheckpointSource>();
  #current = DEFAULT_CHECKPOINT;

  constructor(workers = new WorkerPair(), library = new LibraryClient()) {
    this.#workers = workers;
    this.library = library;
    const { jobs, receiver } = createJobQueue<CheckpointSource>();
    this.#queue = jobs;
    void drain(receiver, workers);
  }

  /** Starts the workers. When one has ended, they are started again by themselves, with the same options. */
  start(options: StartOptions = {}): Promise<DeviceReport> {
    this.#workers.options = options;
    return this.device;
  }

  /** The device that the engine runs on, once it is up. */
  get device(): Promise<DeviceReport> {
    return this.#workers.generator.device;
  }

  /** Opens a folder's checkpoint; operations that name no checkpoint run on it from now on. */
  openFolder(files: FolderFile[]): Promise<CheckpointSummary> {
    return this.#open(folderSource(files));
  }

  /** Opens a checkpoint that is served with the page; else as {@link openFolder}. */
  openBuiltin(name: string): Promise<CheckpointSummary> {
    return this.#open({ kind: 'builtin', name });
  }

  /** Opens a complete checkpoint of the library, by its ref; else as {@link openFolder}. */
  openStored(ref: string): Promise<CheckpointSummary> {
    return this.#open({ kind: 'stored', ref });
  }

  /** What a checkpoint is, from configs and headers read at its origin; nothing is stored. */
  async describe(listing: Listing, token: string | null): Promise<CheckpointSummary> {
    return (await this.#workers.started()).call('openCheckpoint', { kind: 'remote', listing, token });
  }

  /**
   * What a run would need and whether it fits, from configs and headers only. The first one measures the device for a moment.
   * @param checkpoint where it is, or the ref of one that is open, built in or stored
   */
  async estimate(checkpoint: CheckpointSource | string, request: EstimateRequest): Promise<Estimate> {
    const source = typeof checkpoint === 'string' ? this.#source(checkpoint) : checkpoint;
    return (await this.#workers.started()).call('estimate', source, request);
  }

  /** Plans with this much GPU memory from now on, in bytes; null = a guess. */
  async planWith(memoryBytes: number | null): Promise<MemoryBudget> {
    this.#workers.options = { ...this.#workers.options, memoryBytes };
    return (await this.#workers.started()).call('planWith', memoryBytes);
  }

  /** Whether pictures recorded from now on hold how they were made, beside their pixels. */
  inscribe(isOn: boolean): void {
    this.#workers.options = { ...this.#workers.options, inscribes: isOn };
  }

  /**
   * Accepts an operation, or throws one sentence about what is wrong with its envelope. Its parameters are checked by
   * the chunk that runs them, which fails the job.
   * @throws StudioError `invalid_operation`, `checkpoint_incomplete`
   */
  submit(input: unknown): Job {
    const operation = parseOperation(input);
    const checkpoint = operation.checkpoint ?? this.#current;
    return this.#queue.submit({ ...operation, checkpoint }, this.#source(checkpoint));
  }

  /** Resolves with the job when it has ended, in whichever way. */
  wait(id: string): Promise<Job> {
    return this.#queue.wait(id);
  }

  get jobs(): Job[] {
    return this.#queue.list();
  }

  /** Called after every change with all jobs: those begun, then the waiting ones in the order they will run. */
  onChange(listener: (jobs: Job[]) => void): () => void {
    return this.#queue.subscribe(listener);
  }

  /** Called whenever an engine is up; a new one knows nothing of the canvas that the last one drew on. */
  onEngine(listener: (device: DeviceReport) => void): () => void {
    return this.#workers.onStart(listener);
  }

  /** Drops a waiting job; a running one stops at its next step and ends as cancelled. */
  cancel(id: string): Promise<void> {
    this.#queue.cancel(id);
    return Promise.resolve();
  }

  /** Puts a waiting job before another one, or last (null). */
  reorder(id: string, before: string | null): void {
    this.#queue.reorder(id, before);
  }

  /** Forgets an ended job; its recording stays. */
  remove(id: string): void {
    this.#queue.remove(id);
  }

  /** Where previews are drawn; the canvas moves to the worker, so each needs a fresh one. Null stops them. */
  watch(canvas: OffscreenCanvas | null): Promise<void> {
    return this.#workers.generator.link.call('watch', canvas && Comlink.transfer(canvas, [canvas]));
  }

  /** What the engine holds, for tests and measurements. */
  async ledger(): Promise<LedgerReport> {
    return (await this.#workers.started()).call('ledger');
  }

  /** Whether recordings outlast the visit. */
  storage(): Promise<StorageReport> {
    return this.#workers.recorder.call('storage');
  }

  /** Recorded runs, newest first. */
  runs(options: { limit: number; before?: string }): Promise<RunRecord[]> {
    return this.#workers.recorder.call('listRuns', options);
  }

  run(run: string): Promise<RunRecord> {
    return this.#workers.recorder.call('readRun', run);
  }

  entity(run: string, filename: string): Promise<Blob> {
    return this.#workers.recorder.call('readEntity', run, filename);
  }

  deleteRun(run: string): Promise<void> {
    return this.#workers.recorder.call('deleteRun', run);
  }

  async #open(source: CheckpointSource): Promise<CheckpointSummary> {
    const generator = await this.#workers.started();
    const summary = await generator.call('openCheckpoint', source);
    this.#sources.set(summary.ref, source);
    this.#current = summary.ref;
    return summary;
  }

  #source(checkpoint: string): CheckpointSource {
    const open = this.#sources.get(checkpoint);
    if (open) {
      return open;
    }
    const builtin = BUILTIN.exec(checkpoint);
    if (builtin) {
      return { kind: 'builtin', name: builtin[1] };
    }
    if (STORED.test(checkpoint)) {
      return { kind: 'stored', ref: checkpoint };
    }
    throw new StudioError(
      'checkpoint_incomplete',
      `The checkpoint "${checkpoint}" is not open; open its folder first, or leave "checkpoint" out.`,
    );
  }
}
