/** The page's way to the workers: checkpoints, jobs and recordings. Makes the workers, and makes them anew when they end. */
import * as Comlink from 'comlink';
import { StudioError } from '../core/errors.ts';
import type { DeviceReport, Job, JobEvent, LedgerReport } from '../core/job.ts';
import type { CheckpointSummary } from '../core/model.ts';
import { parseOperation } from '../core/operation.ts';
import type { Operation } from '../core/operation.ts';
import type {
  CheckpointSource,
  GenerationApi,
  RecorderApi,
  RunRecord,
  StartOptions,
  StorageReport,
} from '../../workers/protocol.ts';
import { folderSource } from './folder_source.ts';
import type { FolderFile } from './folder_source.ts';
import { createJobQueue } from './queue.ts';
import type { JobQueue } from './queue.ts';
import { drain } from './runner.ts';
import type { Engine } from './runner.ts';
import { WorkerLink } from './worker_link.ts';
import type { WorkerLike } from './worker_link.ts';

/** The checkpoint that comes with the page, which runs what names no other. */
const DEFAULT_CHECKPOINT = 'shapes';

/** After these a generation worker cannot be trusted, or its memory not be won back, so the next job gets a new one. */
const FATAL = new Set<StudioError['code']>(['gpu_lost', 'out_of_memory']);

export interface WorkerMaker {
  generation(): WorkerLike;
  recorder(): WorkerLike;
}

const bundled: WorkerMaker = {
  generation: () => new Worker(new URL('../../workers/generation.worker.ts', import.meta.url), { type: 'module' }),
  recorder: () => new Worker(new URL('../../workers/recorder.worker.ts', import.meta.url), { type: 'module' }),
};

export class JobClient implements Engine {
  readonly #make: WorkerMaker;
  readonly #queue: JobQueue<CheckpointSource>;
  readonly #sources = new Map<string, CheckpointSource>();
  readonly #onEngine = new Set<(device: DeviceReport) => void>();
  #options: StartOptions = {};
  #current: string | null = null;
  #recorder: WorkerLink<RecorderApi> | null = null;
  #generation: { link: WorkerLink<GenerationApi>; device: Promise<DeviceReport> } | null = null;

  constructor(make: WorkerMaker = bundled) {
    this.#make = make;
    const { jobs, receiver } = createJobQueue<CheckpointSource>();
    this.#queue = jobs;
    void drain(receiver, this);
  }

  /** Starts the workers. Later starts, after a worker has ended, happen by themselves with the same options. */
  start(options: StartOptions = {}): Promise<DeviceReport> {
    this.#options = options;
    return this.#engine().device;
  }

  /** The device that the engine runs on, once it is up. */
  get device(): Promise<DeviceReport> {
    return this.#engine().device;
  }

  /** Opens a folder's checkpoint; operations that name no checkpoint run on it from now on. */
  openFolder(files: FolderFile[]): Promise<CheckpointSummary> {
    return this.#open(folderSource(files));
  }

  /** Opens a checkpoint that is served with the page; else as {@link openFolder}. */
  openBuiltin(name: string): Promise<CheckpointSummary> {
    return this.#open({ kind: 'builtin', name });
  }

  /**
   * Accepts an operation, or throws one sentence about what is wrong with its envelope. Its parameters are checked by
   * the chunk that runs them, which fails the job.
   * @throws StudioError `invalid_operation`, `checkpoint_incomplete`
   */
  submit(input: unknown): Job {
    const parsed = parseOperation(input);
    const checkpoint = parsed.checkpoint ?? this.#current ?? `builtin:${DEFAULT_CHECKPOINT}`;
    return this.#queue.submit({ ...parsed, checkpoint }, this.#source(checkpoint));
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

  /** Called when a new generation worker is up, which knows nothing of the canvas that the last one drew on. */
  onEngine(listener: (device: DeviceReport) => void): () => void {
    this.#onEngine.add(listener);
    return () => this.#onEngine.delete(listener);
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
  async watch(canvas: OffscreenCanvas | null): Promise<void> {
    const { link } = this.#engine();
    await link.call('watch', canvas && Comlink.transfer(canvas, [canvas]));
  }

  ledger(): Promise<LedgerReport> {
    return this.#engine().link.call('ledger');
  }

  /** Whether recordings outlast the visit. */
  storage(): Promise<StorageReport> {
    return this.#recording().call('storage');
  }

  /** Recorded runs, newest first. */
  runs(options: { limit: number; before?: string }): Promise<RunRecord[]> {
    return this.#recording().call('listRuns', options);
  }

  run(run: string): Promise<RunRecord> {
    return this.#recording().call('readRun', run);
  }

  entity(run: string, filename: string): Promise<Blob> {
    return this.#recording().call('readEntity', run, filename);
  }

  deleteRun(run: string): Promise<void> {
    return this.#recording().call('deleteRun', run);
  }

  /** The runner's side: one job on the generation worker. */
  async execute(
    request: { jobId: string; operation: Operation; source: CheckpointSource },
    onEvent: (event: JobEvent) => void,
  ): Promise<void> {
    const { link, device } = this.#engine();
    await device;
    try {
      await link.call('execute', request, Comlink.proxy(onEvent));
    } catch (error) {
      const failure = StudioError.from(error);
      if (FATAL.has(failure.code)) {
        link.terminate(failure);
      }
      throw failure;
    }
  }

  /** The runner's side: asks the generation worker to stop a job. */
  async stop(jobId: string): Promise<void> {
    await this.#generation?.link.call('cancel', jobId);
  }

  async #open(source: CheckpointSource): Promise<CheckpointSummary> {
    const { link, device } = this.#engine();
    await device;
    const summary = await link.call('openCheckpoint', source);
    this.#sources.set(summary.ref, source);
    this.#current = summary.ref;
    return summary;
  }

  #source(checkpoint: string): CheckpointSource {
    const open = this.#sources.get(checkpoint);
    if (open) {
      return open;
    }
    const builtin = /^builtin:([a-z0-9_-]+)$/.exec(checkpoint);
    if (!builtin) {
      throw new StudioError(
        'checkpoint_incomplete',
        `The checkpoint "${checkpoint}" is not open; open its folder first, or leave "checkpoint" out.`,
      );
    }
    return { kind: 'builtin', name: builtin[1] };
  }

  #recording(): WorkerLink<RecorderApi> {
    if (!this.#recorder || this.#recorder.failure) {
      this.#recorder = new WorkerLink<RecorderApi>('recorder', this.#make.recorder());
    }
    return this.#recorder;
  }

  #engine(): { link: WorkerLink<GenerationApi>; device: Promise<DeviceReport> } {
    if (!this.#generation || this.#generation.link.failure) {
      const link = new WorkerLink<GenerationApi>('generator', this.#make.generation());
      const device = this.#startEngine(link);
      // Who asks for the device is told; until then a failed start is nobody's unhandled rejection.
      device.catch(() => {});
      this.#generation = { link, device };
    }
    return this.#generation;
  }

  async #startEngine(link: WorkerLink<GenerationApi>): Promise<DeviceReport> {
    const recorder = this.#recording();
    // The generator would wait for ever for a recorder that has ended.
    void recorder.ended.then((reason) => link.terminate(reason));
    const { port1, port2 } = new MessageChannel();
    try {
      await recorder.call('connect', Comlink.transfer(port1, [port1]));
      const device = await link.call('start', Comlink.transfer({ ...this.#options, recorder: port2 }, [port2]));
      this.#onEngine.forEach((listener) => listener(device));
      return device;
    } catch (error) {
      const failure = StudioError.from(error);
      link.terminate(failure);
      throw failure;
    }
  }
}
