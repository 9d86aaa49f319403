/** The page's way to the workers: checkpoints, jobs and recordings. */
import * as Comlink from 'comlink';
import { DEFAULT_CHECKPOINT } from '../core/builtin_checkpoints.ts';
import type { Delta, DeviceReport, EngineState, Job, LedgerReport } from '../core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget } from '../core/model.ts';
import type { Operation } from '../core/operation.ts';
import { parseOperation } from '../core/operation.ts';
import { requirementsOf } from '../core/plan.ts';
import type { Requirements } from '../core/plan.ts';
import { catalogue } from '../pipelines/catalogue.ts';
import type { CheckpointSource } from '../weights/checkpoint_source.ts';
import type { Listing } from '../weights/library/library_api.ts';
import type { LoraFit, StartOptions } from '../../workers/generation_api.ts';
import type { RunRecord, StorageReport } from '../recorder/recorder_api.ts';
import { witnessFile } from '../storage/witness.ts';
import { folderSource } from './folder_source.ts';
import type { FolderFile } from './folder_source.ts';
import type { QueueView } from './job_watchers.ts';
import type { LanguageEngines } from './language.ts';
import { LibraryClient } from './library.ts';
import { Receiver } from './queue.ts';
import type { Lane } from './queue.ts';
import { needsOf } from './needs.ts';
import { QueueWitness } from './queue_witness.ts';
import { RecordingsClient } from './recordings.ts';
import { resumed } from './resumption.ts';
import { drain } from './runner.ts';
import type { RemoteWorkers } from './remote_workers.ts';
import type { JobService, QueueState } from './service.ts';
import { Sources } from './sources.ts';
import { StoredJobs } from './stored_jobs.ts';
import { Turn } from './turn.ts';
import { WorkerPair } from './worker_pair.ts';

/** What the tabs of one browser have in common. */
export interface Commons {
  jobs: StoredJobs;
  turn: Turn;
  sources: Sources;
  /** Null where what waits is remembered nowhere else. */
  witness: QueueWitness | null;
}

function inBrowser(workers: WorkerPair): Commons {
  const entity = (run: string, filename: string) => workers.recorder.call('readEntity', run, filename);
  const jobs = new StoredJobs({ catalogue, entity });
  return {
    jobs,
    // Absent outside secure contexts.
    turn: new Turn((navigator as { locks?: LockManager }).locks ?? null),
    sources: new Sources(),
    witness: new QueueWitness(jobs, witnessFile('queue')),
  };
}

const onGpu = ({ gpu }: Requirements) => gpu;
const onServers = ({ gpu, remote }: Requirements) => !gpu && remote;

/** What runs side by side: a job on the GPU, one that needs neither it nor a server, and a few on servers, each of which may have its own. */
const LANES = [onGpu, ({ gpu, remote }: Requirements) => !gpu && !remote, onServers, onServers, onServers, onServers];

export class JobClient implements JobService {
  /** What is stored in this browser, and how more gets there. */
  readonly library: LibraryClient;
  /** What was made and kept. */
  readonly recordings: RecordingsClient;
  /** Language models and voices. */
  readonly language: LanguageEngines;
  /** One sentence when the browser had lost the queue of an earlier visit, else null. */
  readonly queueLoss: Promise<string | null>;
  readonly #workers: WorkerPair;
  readonly #jobs: StoredJobs;
  readonly #turn: Turn;
  readonly #sources: Sources;
  #current = DEFAULT_CHECKPOINT;

  constructor(workers = new WorkerPair(), library = new LibraryClient(), commons = inBrowser(workers)) {
    this.#workers = workers;
    this.language = workers.language;
    this.library = library;
    this.recordings = new RecordingsClient(() => workers.recorder);
    const { jobs, turn, sources, witness } = commons;
    [this.#jobs, this.#turn, this.#sources] = [jobs, turn, sources];
    const receivers = LANES.map((takes) => {
      const lane: Lane = {
        takes: (operation) => takes(needsOf(operation)),
        refs: (operation) => needsOf(operation).refs,
      };
      const receiver = new Receiver(jobs, turn, (ref) => sources.resolve(ref), { lane });
      void drain(receiver, takes === onGpu ? workers : workers.tasks);
      return receiver;
    });
    this.language.onOpened = (ref, source) => sources.add(ref, source);
    sources.onFound = (ref) => receivers.forEach((receiver) => receiver.found(ref));
    this.queueLoss = witness?.begin() ?? Promise.resolve(null);
  }

  /** Starts the workers. When one has ended, they are started again by themselves, with the same options. */
  start(options: StartOptions = {}): Promise<DeviceReport> {
    this.#workers.options = options;
    this.language.options = { backend: options.backend ?? 'auto', threads: options.threads };
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
    const source = typeof checkpoint === 'string' ? this.#sources.get(checkpoint) : checkpoint;
    return (await this.#workers.started()).call('estimate', source, request);
  }

  async engineState(): Promise<EngineState> {
    return (await this.#workers.started()).call('engineState');
  }

  /** Brings to the device what an operation runs on, where that surely fits. A job that begins meanwhile goes first. */
  async prepare(input: unknown): Promise<void> {
    const operation = this.#onCurrent(parseOperation(input));
    const sources = Object.fromEntries(needsOf(operation).refs.map((ref) => [ref, this.#sources.get(ref)]));
    await (await this.#workers.started()).call('prepare', { operation, sources });
  }

  /** Frees the device, unless a job runs. */
  async unload(): Promise<void> {
    await (await this.#workers.started()).call('unload');
  }

  /** Which of the stored LoRAs fit a checkpoint that is open, built in or stored, by its ref. */
  async checkLoras(checkpoint: string): Promise<LoraFit[]> {
    return (await this.#workers.started()).call('checkLoras', this.#sources.get(checkpoint));
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

  /** The jobs as they are to everybody: what names no checkpoint runs on the one that comes with the page, whichever is open here. */
  get shared(): JobService {
    return this.#jobs;
  }

  /** As {@link JobService.submit}; one that names no checkpoint runs on the one that was opened last in this tab. */
  async submit(input: unknown, id?: string): Promise<Job> {
    return this.#jobs.submit(this.#onCurrent(parseOperation(input)), id);
  }

  /** What comes back from the queue's witness is in it. */
  async list(): Promise<Job[]> {
    await this.queueLoss;
    return this.#jobs.list();
  }

  get(id: string): Promise<Job> {
    return this.#jobs.get(id);
  }

  wait(id: string): Promise<Job> {
    return this.#jobs.wait(id);
  }

  follow(id: string, listener: (job: Job) => void): () => void {
    return this.#jobs.follow(id, listener);
  }

  deltas(id: string, listener: (delta: Delta) => void): () => void {
    return this.#jobs.deltas(id, listener);
  }

  /** Keeps a key that the person entered for as long as the page is open; null forgets it. It goes only to the step that asks for it. */
  setSecret(name: string, value: string | null): void {
    this.#workers.setSecret(name, value);
  }

  /** Says how to read a key that was kept in an earlier visit; see {@link setSecret}. */
  rememberSecrets(find: (name: string) => Promise<string | null>): void {
    this.#workers.remembered = find;
  }

  /** Servers on other machines. */
  get remote(): Promise<RemoteWorkers> {
    return this.#workers.remote;
  }

  cancel(id: string): Promise<Job> {
    return this.#jobs.cancel(id);
  }

  cancelAll(): Promise<void> {
    return this.#jobs.cancelAll();
  }

  reorder(id: string, before: string | null): Promise<void> {
    return this.#jobs.reorder(id, before);
  }

  repeat(id: string): Promise<Job> {
    return this.#jobs.repeat(id);
  }

  /** The operation of a job that came to an end in the middle, with what its finished steps recorded; see `resumption.ts`. */
  async resumed(id: string): Promise<Operation> {
    return resumed(await this.get(id), catalogue, (run, filename) => this.entity(run, filename));
  }

  /** Steps of an operation that run a language model, and what they want of it. @throws StudioError `invalid_operation` */
  languageSteps(input: unknown): Requirements['languageSteps'] {
    return requirementsOf(parseOperation(input), catalogue).languageSteps;
  }

  remove(id: string): Promise<void> {
    return this.#jobs.remove(id);
  }

  forever(id: string | null): Promise<void> {
    return this.#jobs.forever(id);
  }

  pause(isPaused: boolean): Promise<void> {
    return this.#jobs.pause(isPaused);
  }

  queue(): Promise<QueueState> {
    return this.#jobs.queue();
  }

  /** Runs jobs in this tab from now on; another tab that runs one stops it, and it goes on here. */
  takeOver(): void {
    this.#turn.take();
  }

  /** What is known here of jobs and queue by now. */
  get view(): QueueView {
    return { jobs: this.#jobs.jobs, changed: new Set(), queue: this.#jobs.state };
  }

  /** One sentence for the person when waiting jobs do not outlast this visit; null when they do. */
  get queueNote(): string | null {
    return this.#jobs.note;
  }

  /** Called after every change of a job or of the queue, in whichever tab it was made. */
  onChange(listener: (view: QueueView) => void): () => void {
    return this.#jobs.subscribe(listener);
  }

  /** Says how to read a folder that was opened in an earlier visit, where the browser allows that without asking; else null. */
  rememberFolders(find: (name: string) => Promise<FolderFile[] | null>): void {
    this.#sources.remembered = find;
  }

  /** Called whenever an engine is up; a new one knows nothing of the canvas that the last one drew on. */
  onEngine(listener: (device: DeviceReport) => void): () => void {
    return this.#workers.onStart(listener);
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

  #onCurrent(operation: Operation): Operation {
    return needsOf(operation).lacksCheckpoint ? { ...operation, checkpoint: this.#current } : operation;
  }

  async #open(source: CheckpointSource): Promise<CheckpointSummary> {
    const generator = await this.#workers.started();
    const summary = await generator.call('openCheckpoint', source);
    this.#sources.add(summary.ref, source);
    this.#current = summary.ref;
    return summary;
  }
}
