/** The page's client for the workers: checkpoints, jobs and recordings. */
import * as Comlink from 'comlink';
import type { CheckedAddition } from '../core/additions.ts';
import { DEFAULT_CHECKPOINT, defaultCheckpoint } from '../core/builtin_checkpoints.ts';
import type { ComfySurvey } from '../core/comfyui.ts';
import type { Delta, DeviceReport, EngineState, Job, LedgerReport, SoundPiece } from '../core/job.ts';
import type {
  CheckpointSummary,
  Estimate,
  EstimateRequest,
  MemoryBudget,
  PromptSyntax,
  TokenCount,
} from '../core/model.ts';
import type { Operation } from '../core/operation.ts';
import { namedFiles, type NamedFile } from '../core/named_files.ts';
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
import type { LibraryClient } from './library.ts';
import { Receiver } from './queue.ts';
import type { Lane } from './queue.ts';
import { needsOf } from './needs.ts';
import { QueueWitness } from './queue_witness.ts';
import { RecordingsClient } from './recordings.ts';
import { resumed } from './resumption.ts';
import { drain } from './runner.ts';
import type { RemoteWorkers } from './remote_workers.ts';
import type { ServerLanes } from './server_lanes.ts';
import type { JobService, QueueState } from './service.ts';
import { Sources } from './sources.ts';
import { StoredJobs } from './stored_jobs.ts';
import { Turn } from './turn.ts';
import type { WorkerPair } from './worker_pair.ts';

/** What the tabs of one browser share. */
export interface Commons {
  jobs: StoredJobs;
  turn: Turn;
  sources: Sources;
  /** Null if waiting jobs are recorded nowhere else. */
  witness: QueueWitness | null;
}

/** All of it is stored. */
export function inBrowser(workers: WorkerPair): Commons {
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

export class JobClient implements JobService {
  /** Checkpoints stored in this browser, and adding more. */
  readonly library: LibraryClient;
  /** What was made and kept. */
  readonly recordings: RecordingsClient;
  /** Language models and voices. */
  readonly language: LanguageEngines;
  /** A sentence if the browser had lost the queue of an earlier visit, else null. */
  readonly queueLoss: Promise<string | null>;
  readonly #workers: WorkerPair;
  readonly #jobs: StoredJobs;
  readonly #turn: Turn;
  readonly #sources: Sources;
  #current = { ref: DEFAULT_CHECKPOINT, pipelineClass: '' };

  constructor(workers: WorkerPair, library: LibraryClient, commons: Commons) {
    this.#workers = workers;
    this.language = workers.language;
    this.library = library;
    this.recordings = new RecordingsClient(() => workers.recorder);
    const { jobs, turn, sources, witness } = commons;
    [this.#jobs, this.#turn, this.#sources] = [jobs, turn, sources];
    const receivers: Receiver<CheckpointSource>[] = [];
    const open = (takes: (needs: Requirements) => boolean) => {
      const lane: Lane = {
        takes: (operation) => takes(needsOf(operation)),
        refs: (operation) => needsOf(operation).refs,
      };
      const receiver = new Receiver(jobs, turn, (ref) => sources.resolve(ref), { lane });
      void drain(receiver, takes === onGpu ? workers : workers.tasks);
      receivers.push(receiver);
    };
    // In parallel: one job on the GPU, one that needs neither GPU nor server, and those on servers, of which one finds out which there are.
    let lanes: ServerLanes | undefined;
    open(onGpu);
    open(({ gpu, engines }) => !gpu && engines.length === 0);
    open((needs) => !needs.gpu && needs.engines.length > 0 && lanes?.has(needs) !== true);
    workers.onServers = async (servers) => {
      lanes ??= new (await import('./server_lanes.ts')).ServerLanes(open);
      lanes.know(servers);
    };
    this.language.onOpened = (ref, source) => sources.add(ref, source);
    sources.onFound = (ref) => receivers.forEach((receiver) => receiver.found(ref));
    this.queueLoss = witness?.begin() ?? Promise.resolve(null);
  }

  /** Starts the workers. If one ends, they restart automatically with the same options. What was set before stays. */
  start(options: StartOptions = {}): Promise<DeviceReport> {
    this.#workers.options = { ...options, ...this.#workers.options };
    const { backend = 'auto', threads, runtimeFiles } = options;
    this.language.options = { backend, threads, runtimeFiles };
    return this.device;
  }

  /** The engine's device, once it has started. */
  get device(): Promise<DeviceReport> {
    return this.#workers.generator.device;
  }

  /** Opens a folder's checkpoint, which operations without a checkpoint run on from now on. */
  openFolder(files: FolderFile[]): Promise<CheckpointSummary> {
    return this.#open(folderSource(files));
  }

  /** Like {@link openFolder}, for a checkpoint served with the page. */
  openBuiltin(name: string): Promise<CheckpointSummary> {
    return this.#open({ kind: 'builtin', name });
  }

  /** Like {@link openFolder}, for a complete checkpoint in the library, by ref. */
  openStored(ref: string): Promise<CheckpointSummary> {
    return this.#open({ kind: 'stored', ref });
  }

  /** What is known of a checkpoint by its ref, without opening it for the next operations. */
  async summaryOf(ref: string): Promise<CheckpointSummary> {
    return (await this.#workers.started()).call('openCheckpoint', this.#sources.get(ref));
  }

  /** Describes a checkpoint from the configs and headers at its origin; nothing is stored. */
  async describe(listing: Listing, token: string | null): Promise<CheckpointSummary> {
    return (await this.#workers.started()).call('openCheckpoint', { kind: 'remote', listing, token });
  }

  /**
   * What a run would need and whether it fits, judged by configs and headers only. The first call briefly measures the device.
   * @param checkpoint its source, or the ref of one that is open, built in or stored
   */
  async estimate(checkpoint: CheckpointSource | string, request: EstimateRequest): Promise<Estimate> {
    const source = typeof checkpoint === 'string' ? this.#sources.get(checkpoint) : checkpoint;
    return (await this.#workers.started()).call('estimate', source, request);
  }

  async engineState(): Promise<EngineState> {
    return (await this.#workers.started()).call('engineState');
  }

  /** Loads what an operation runs on, if it certainly fits. A job that starts meanwhile goes first. */
  async prepare(asked: Operation): Promise<void> {
    const operation = this.#onCurrent(asked);
    const sources = Object.fromEntries(needsOf(operation).refs.map((ref) => [ref, this.#sources.get(ref)]));
    await (await this.#workers.started()).call('prepare', { operation, sources });
  }

  /** Frees the device, unless a job runs. */
  async unload(): Promise<void> {
    await (await this.#workers.started()).call('unload');
  }

  /** How much of each text encoder of an open, built-in or stored checkpoint a prompt takes. */
  async countTokens(checkpoint: string, prompt: string, syntax: PromptSyntax): Promise<TokenCount[]> {
    return (await this.#workers.started()).call('countTokens', this.#sources.get(checkpoint), prompt, syntax);
  }

  /** Which stored LoRAs fit an open, built-in or stored checkpoint, by its ref. */
  async checkLoras(checkpoint: string): Promise<LoraFit[]> {
    return (await this.#workers.started()).call('checkLoras', this.#sources.get(checkpoint));
  }

  /** Which of the stored additions of a kind fit it, likewise. */
  async checkAdditions(checkpoint: string, kind: CheckedAddition): Promise<Omit<LoraFit, 'note'>[]> {
    return (await this.#workers.started()).call('checkAdditions', this.#sources.get(checkpoint), kind);
  }

  /** Sets the GPU memory to plan with, in bytes; null = a guess. */
  async planWith(memoryBytes: number | null): Promise<MemoryBudget> {
    this.#workers.options = { ...this.#workers.options, memoryBytes };
    return (await this.#workers.started()).call('planWith', memoryBytes);
  }

  /** What is planned with. */
  async budget(): Promise<MemoryBudget> {
    const worker = await this.#workers.started();
    return worker.call('planWith', this.#workers.options.memoryBytes ?? null);
  }

  /** Whether pictures recorded from now on contain how they were made. */
  inscribe(isOn: boolean): void {
    this.#workers.options = { ...this.#workers.options, inscribes: isOn };
  }

  /** The jobs as other doors see them: operations without a checkpoint run on the built-in one, whichever is open here. */
  get shared(): JobService {
    return this.#jobs;
  }

  /** Like {@link JobService.submit}; an operation without a checkpoint runs on the one opened last in this tab. */
  async submit(asked: Operation, id?: string): Promise<Job> {
    return this.#jobs.submit(this.#onCurrent(asked), id);
  }

  /** Includes jobs restored from the queue's witness. */
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

  /** Streams a sound that a job of this tab is making, starting with what there is. Returns a function that stops. */
  sounds(id: string, listener: (piece: SoundPiece) => void): () => void {
    return this.#jobs.sounds(id, listener);
  }

  /** Keeps a key the person entered while the page is open; null forgets it. Only the step that asks for it gets it. */
  setSecret(name: string, value: string | null): void {
    this.#workers.setSecret(name, value);
  }

  /** Sets how to read a key kept from an earlier visit; see {@link setSecret}. */
  rememberSecrets(find: (name: string) => Promise<string | null>): void {
    this.#workers.remembered = find;
  }

  /** Servers on other machines. */
  get remote(): Promise<RemoteWorkers> {
    return this.#workers.remote;
  }

  /** What the entered servers make of a person's own workflow: its graph, and what they lack for it. */
  async surveyWorkflow(engine: string, workflow: unknown): Promise<ComfySurvey> {
    return (await this.remote).survey(engine, workflow, (name) => this.#workers.secret(name));
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

  /** The operation of a job that ended midway, with the outputs of its finished steps; see `resumption.ts`. */
  async resumed(id: string): Promise<Operation> {
    return resumed(await this.get(id), catalogue, (run, filename) => this.entity(run, filename));
  }

  /** What an operation needs. @throws StudioError `invalid_operation` */
  requirements(operation: Operation): Requirements {
    return requirementsOf(operation, catalogue);
  }

  /** Where an operation names files; see `named_files.ts`. */
  namedFiles(operation: Operation): NamedFile[] {
    return namedFiles(operation, catalogue);
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

  /** Runs jobs in this tab from now on; a job running in another tab stops there and continues here. */
  takeOver(): void {
    this.#turn.take();
  }

  /** What this tab currently knows about jobs and queue. */
  get view(): QueueView {
    return { jobs: this.#jobs.jobs, changed: new Set(), queue: this.#jobs.state };
  }

  /** A sentence for the person if waiting jobs will not outlast this visit; null if they will. */
  get queueNote(): string | null {
    return this.#jobs.note;
  }

  /** Called after every change of a job or the queue, in any tab. */
  onChange(listener: (view: QueueView) => void): () => void {
    return this.#jobs.subscribe(listener);
  }

  /** Sets how to read a folder opened in an earlier visit, if the browser allows it without asking; else null. */
  rememberFolders(find: (name: string) => Promise<FolderFile[] | null>): void {
    this.#sources.remembered = find;
  }

  /** Called whenever an engine has started; a new one does not have its predecessor's canvas. */
  onEngine(listener: (device: DeviceReport) => void): () => void {
    return this.#workers.onStart(listener);
  }

  /** Where previews are drawn; the canvas moves to the worker, so each needs a fresh one. Null stops them. */
  watch(canvas: OffscreenCanvas | null): Promise<void> {
    return this.#workers.generator.link.call('watch', canvas && Comlink.transfer(canvas, [canvas]));
  }

  /** What the engine holds; for tests and measurements. */
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
    const { lacking } = needsOf(operation);
    if (!lacking) {
      return operation;
    }
    // The open checkpoint usually paints; the upscaler is another one, shipped with the page.
    const { ref, pipelineClass } = this.#current;
    const builtin = defaultCheckpoint(lacking);
    const isOther = builtin !== DEFAULT_CHECKPOINT && !lacking.includes(pipelineClass);
    return { ...operation, checkpoint: isOther ? builtin : ref };
  }

  async #open(source: CheckpointSource): Promise<CheckpointSummary> {
    const generator = await this.#workers.started();
    const summary = await generator.call('openCheckpoint', source);
    this.#sources.add(summary.ref, source);
    this.#current = summary;
    return summary;
  }
}
