/** What page and workers say to one another: the workers' interfaces. How it crosses is in `connection.ts`. */
import type { StudioErrorData } from '../src/core/errors.ts';
import type { DeviceReport, Entity, JobEvent, LedgerReport, ResumePoint, Stage } from '../src/core/job.ts';
import type { LanguageKind } from '../src/core/language.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget, WeightVariant } from '../src/core/model.ts';
import type { Operation } from '../src/core/operation.ts';
import type { Change } from '../src/core/smaller.ts';

/** Where the bytes of a checkpoint are. `path` is relative to the checkpoint's own folder. */
export type CheckpointSource =
  | { kind: 'builtin'; name: string }
  | { kind: 'folder'; name: string; files: { path: string; file: File }[] }
  /** In the library of this browser, complete. */
  | { kind: 'stored'; ref: string }
  /** Not fetched: configs and headers are read by range requests, so it can be looked at and planned, not run. */
  | { kind: 'remote'; listing: Listing; token: string | null };

/** How the engine is started; `auto` and off where nothing is said. */
export interface StartOptions {
  backend?: 'auto' | 'webgpu' | 'wasm';
  /** What the UNet computes in; `auto` is f16 where the GPU can. */
  precision?: 'auto' | 'f32' | 'f16';
  /** Counts every launch for measurements, which slows the engine. */
  countLaunches?: boolean;
  /** GPU memory to plan with, in bytes, as the person says; null = a guess. */
  memoryBytes?: number | null;
  /** Whether pictures are recorded with how they were made written into them; on where nothing is said. */
  inscribes?: boolean;
}

/** What to execute, and how far earlier attempts came. */
export interface ExecuteRequest {
  jobId: string;
  operation: Operation;
  /** Of the checkpoints and language models that it runs, by ref. */
  sources: Record<string, CheckpointSource>;
  inscribes: boolean;
  /** From 1. */
  attempt: number;
  /** The run that an earlier attempt opened; null = a new one. What is recorded there already is not recorded again. */
  run: string | null;
  /** From where to go on; null = from the beginning. */
  point: ResumePoint | null;
}

/** A port of the language worker, and the Web Lock that it holds while it lives (null where there are none). */
export interface LanguageConnection {
  port: MessagePort;
  lock: string | null;
}

/** What a worker asks of the page while it executes a job. */
export interface JobPage {
  /** A key that the person entered. Rejects with `invalid_operation` when there is none of this name. */
  secret(name: string): Promise<string>;
  /** A way to the language engine, which is started where there is none. */
  language(): Promise<LanguageConnection>;
  /** As {@link language}, but null where none runs. */
  languageIfAlive(): Promise<LanguageConnection | null>;
  /** Frees what an idle graph engine holds, unless there is room beside it for a model of this many bytes. */
  makeRoom(bytes: number): Promise<void>;
}

/** What executes jobs, one at a time. */
export interface JobExecutor {
  /**
   * Events are delivered in order, all of them before the answer; see {@link EventSender}. Each tells of something finished, so they are the
   * signs of life that the watchdog waits for. A run that fails or is cancelled stays open: whether another attempt goes on with it is for
   * the caller to say, who closes it otherwise.
   */
  execute(request: ExecuteRequest, onEvent: (event: JobEvent) => void, page: JobPage): Promise<{ run: string }>;
  /** Stops that job where it next reports, between two steps; its `execute` then rejects with `cancelled`. Unknown ids are no error. */
  cancel(jobId: string): Promise<void>;
}

/** Executes jobs without a checkpoint of the graph engine: those that need no GPU side by side, and those of language models. */
export interface TaskApi extends JobExecutor {
  /** Must be the first call. `recorder` speaks {@link RecorderApi}. */
  connect(recorder: MessagePort): Promise<void>;
}

/** The owner of the GPU: one per generation worker. Calls may overlap; `execute` is called once at a time. */
export interface GenerationApi extends JobExecutor {
  /** Must be the first call. `recorder` speaks {@link RecorderApi}. */
  start(options: StartOptions & { recorder: MessagePort }): Promise<DeviceReport>;
  /** Reads configs and headers only. */
  openCheckpoint(source: CheckpointSource): Promise<CheckpointSummary>;
  /** What is smaller than an operation that failed and may succeed here; null where nothing is known. Reads configs and headers only. */
  smaller(request: {
    operation: Operation;
    sources: ExecuteRequest['sources'];
    point: ResumePoint | null;
    stage: Stage | null;
  }): Promise<Change | null>;
  /** Where previews are drawn; null stops them. The canvas is transferred. */
  watch(canvas: OffscreenCanvas | null): Promise<void>;
  ledger(): Promise<LedgerReport>;
  /** Which of the LoRAs that are stored here fit a checkpoint, from headers only. Empty for one that takes none. */
  checkLoras(source: CheckpointSource): Promise<LoraFit[]>;
  /**
   * What a run would need, from configs and headers only, and whether it fits. The first call measures the device for a moment,
   * unless a job runs.
   */
  estimate(source: CheckpointSource, request: EstimateRequest): Promise<Estimate>;
  /** Plans with this much GPU memory from now on; null = a guess. Answers with what is planned with. */
  planWith(memoryBytes: number | null): Promise<MemoryBudget>;
  /** See {@link JobPage.makeRoom}; while a job runs here nothing is freed. */
  makeRoom(bytes: number): Promise<void>;
}

/** A stored LoRA beside a checkpoint. */
export interface LoraFit {
  ref: string;
  /** As prompts name it. */
  name: string;
  /** Why it cannot be used with that checkpoint, as a sentence; null when it can. */
  problem: string | null;
  /** What would be left out of it, as a sentence; null when nothing would. */
  note: string | null;
}

/** What is said about a run when it is opened. */
export interface RunOpening {
  config_name: string;
  /**
   * The operation as accepted; `metadata.json` keeps its pictures as type and size only, so record them as entities. Null for what was
   * not made here, such as a picture that somebody keeps.
   */
  operation: Operation | null;
  /** Entity types that the run is expected to produce, in order. */
  expected_outputs: string[];
}

/** `interrupted`: the tab, the browser or the machine went away while it ran. */
export type RunStage = 'running' | 'completed' | 'failed' | 'cancelled' | 'interrupted';

/** How whoever runs a run says that it ended. */
export type RunEnd = Exclude<RunStage, 'running' | 'interrupted'>;

/** `metadata.json` of one run folder. */
export interface RunRecord {
  /** 2; runs of the layout before journals keep their 1 until they are changed. */
  schema_version: number;
  run_id: string;
  timestamp: string;
  device_id: string;
  config_name: string;
  operation: Operation | null;
  expected_outputs: string[];
  current_state: { stage: RunStage; error?: StudioErrorData };
  /** A starred run is never deleted by {@link Retention}. Absent = false. */
  starred?: boolean;
  entities: RunEntity[];
  /** Only in answers: file names that were saved and are no longer there whole, as when somebody else deleted them. */
  lost?: string[];
}

/** One entry of {@link RunRecord.entities}; `sha256` is empty where a record was rebuilt from the files. */
export type RunEntity = Omit<Entity, 'run'>;

/** What a list shows of a run, without opening its folder. */
export interface RunSummary {
  run_id: string;
  timestamp: string;
  stage: RunStage;
  starred: boolean;
  config_name: string;
  checkpoint: string;
  prompt: string;
  negative_prompt: string;
  /** How many there are, and how many of them are results, of whichever medium. */
  entities: number;
  pictures: number;
  /** File name of what stands for the run: the first result, else the first that was given; empty where there is none. */
  picture: string;
  /** What a kept picture was called; else empty. */
  name: string;
  /** Of all entities. */
  bytes: number;
}

/** A run that the browser has lost, and what is remembered of it. */
export interface LostRun extends RunSummary {
  /** As accepted, of pictures only type and size; null when it is not remembered, or nothing was asked for. */
  operation: Operation | null;
  /** A small picture of the first one made, as a data: URL; null when there is none. */
  thumbnail: string | null;
}

/** Which runs to list, newest first. */
export interface RunQuery {
  limit: number;
  /** The last run id of the previous page of results. */
  before?: string;
  /** Words that all occur in prompt, negative prompt, config, checkpoint, name or run id; case does not matter. */
  text?: string;
  starred?: boolean;
}

/** Which runs are kept. Starred and running ones always are, and the newest ended one. */
export type Retention = { keep: 'all' } | { keep: 'runs'; runs: number } | { keep: 'bytes'; bytes: number };

export interface StorageReport {
  /** False: recordings live in memory and end with this visit. */
  persistent: boolean;
  /** One sentence for the person when there is something to say. */
  note: string | null;
}

/**
 * The owner of the recordings: one per recorder worker. Errors: `storage_unavailable`, `storage_full`, `invalid_operation` (no such run or
 * file), `origin_unavailable` (a URL that does not answer).
 */
export interface RecorderApi {
  /** Serves this same interface on another port, for the generation worker. */
  connect(port: MessagePort): Promise<void>;
  storage(): Promise<StorageReport>;
  /** Creates the run's folder and returns its id. */
  openRun(opening: RunOpening): Promise<string>;
  /** Goes on with a run that was interrupted or has ended: more can be saved, under the numbers that follow. */
  resumeRun(run: string): Promise<RunRecord>;
  /** Returns when the entity is saved: its file is whole and its journal record is flushed. */
  saveEntity(
    run: string,
    entityType: string,
    content: Blob | string | object,
    metadata?: Record<string, unknown>,
  ): Promise<Entity>;
  /** As {@link saveEntity}, of a Blob and nothing else. */
  saveFromBlob(run: string, entityType: string, blob: Blob, metadata?: Record<string, unknown>): Promise<Entity>;
  /** Fetches what the URL names (also `blob:` and `data:`) and saves it; `metadata.source` says where http(s) content came from. */
  saveFromUrl(run: string, entityType: string, url: string, metadata?: Record<string, unknown>): Promise<Entity>;
  /** Writes how the run ended. */
  closeRun(run: string, stage: RunEnd, error?: StudioErrorData): Promise<void>;
  listRuns(query: RunQuery): Promise<RunRecord[]>;
  /** As {@link listRuns}, from the index alone: for long lists. */
  findRuns(query: RunQuery): Promise<RunSummary[]>;
  /** Runs whose folders the browser has lost, newest first. They are in no other list. */
  lostRuns(): Promise<LostRun[]>;
  /** Takes lost runs off that list. */
  forgetLost(runs: string[]): Promise<void>;
  readRun(run: string): Promise<RunRecord>;
  /** The content, after its hash was compared with the recorded one. */
  readEntity(run: string, filename: string): Promise<Blob>;
  starRun(run: string, starred: boolean): Promise<void>;
  deleteRun(run: string): Promise<void>;
  /** Records a run again from the files of its folder, `metadata.json` among them; every byte is compared with the hashes in it. */
  importRun(files: { path: string; file: Blob }[]): Promise<RunRecord>;
  retention(): Promise<Retention>;
  /** What {@link setRetention} would delete now, newest first. */
  outdatedRuns(retention: Retention): Promise<RunSummary[]>;
  /** Applies at once and after every run; answers with the ids of the runs that it deleted. */
  setRetention(retention: Retention): Promise<string[]>;
}

/** Where a checkpoint can be had. */
export type Origin =
  /** A Hugging Face repository; a revision of null is its `main`, which a look resolves to a commit. */
  | { kind: 'hub'; repo: string; revision: string | null }
  /** The address of a folder (it ends in `/` and holds model_index.json) or of one `.safetensors` file. */
  | { kind: 'url'; url: string };

export interface License {
  /** SPDX id or the hub's own, such as `openrail++` or `other`; null where the repository names none. */
  id: string | null;
  /** Where its text is, as an address, or null. */
  link: string | null;
  /** Whether the person has to accept it here, once, before anything is fetched (none, `other` and use-restricted ones). */
  mustAccept: boolean;
}

export interface ListedFile {
  /** Relative to the checkpoint's folder, with forward slashes. */
  path: string;
  /** In bytes. */
  size: number;
  /** Of the whole file, lower-case hex, where the origin says it (the hub does for LFS files); else null. */
  sha256: string | null;
  /** What Git calls the file, where the origin says it (the hub does for the others). */
  gitSha1?: string | undefined;
}

/** The files of a checkpoint at its origin; nothing of them was fetched. */
export interface Listing {
  /** `hub:<org>/<name>@<commit>` or `url:<address>`. */
  ref: string;
  name: string;
  origin: Origin;
  /** The pinned commit; null for plain addresses. */
  revision: string | null;
  license: License;
  /** The hub asks for an account that was granted access; a token is needed. */
  gated: boolean;
  files: ListedFile[];
}

export type StoredState =
  /** All there, and every byte was verified when it arrived. */
  | 'complete'
  /** Being fetched now, by this tab or another. */
  | 'downloading'
  /** Begun and not finished; `resume` goes on from the last whole piece. */
  | 'paused'
  /** `verify` found wrong or missing bytes; `resume` fetches them anew. */
  | 'damaged';

/** A checkpoint in the library, or a LoRA, whose ref begins with `lora:`. */
export interface StoredCheckpoint {
  /** The listing's ref, with `#q8` or `#q4` when quantised. Operations name it so. */
  ref: string;
  name: string;
  origin: Origin | { kind: 'import' };
  revision: string | null;
  license: License;
  /** What it makes; of one that is not complete what its files look like. */
  kind: 'image' | LanguageKind;
  variant: WeightVariant;
  state: StoredState;
  /** Bytes that will lie in the store when it is complete, and those there now. */
  bytes: number;
  storedBytes: number;
  /** Of a LoRA's file, once it is known. */
  sha256?: string;
  /** Milliseconds since 1970; `usedAt` is null before the first use. */
  addedAt: number;
  usedAt: number | null;
  /** Why it stopped, when it did not by request. */
  error: StudioErrorData | null;
}

/** Of one download, import, verification or export. */
export interface TransferProgress {
  ref: string;
  /** Bytes done and in all; of a download those from the network. */
  done: number;
  total: number;
  /** Measured over the last seconds; null before there is something to measure. */
  bytesPerSecond: number | null;
  secondsLeft: number | null;
}

export interface SpaceReport {
  /** Bytes that the browser says this page uses and may use: a hint, never a promise. */
  usage: number | null;
  quota: number | null;
  /** Whether the browser promised not to evict what is stored. */
  persisted: boolean;
}

/**
 * The owner of the library: one per library worker. Errors: `invalid_operation` (a malformed name), `origin_unavailable` (not found, gated,
 * offline, refused), `checkpoint_damaged` (a wrong byte), `checkpoint_unsupported`, `storage_full`, `storage_unavailable`, `cancelled` (paused).
 */
export interface LibraryApi {
  /** Asks the origin what there is. `token`: a hub token, held for this call only. */
  look(origin: Origin, token: string | null): Promise<Listing>;
  /**
   * Fetches `paths` of the listing into the store and resolves when all of it is there and verified. Goes on where an earlier attempt stopped. While
   * another tab fetches the same, waits for it. Rejects with `cancelled` after {@link pause}.
   */
  download(
    request: { listing: Listing; paths: string[]; variant: WeightVariant; token: string | null },
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /**
   * Fetches one file of the listing as a LoRA, under the ref `lora:url:<address>` or `lora:hub:<org>/<name>@<commit>/<path>`; else as
   * {@link download}. What the file is is read from its header first: `checkpoint_unsupported` for one that is no LoRA.
   */
  downloadLora(
    request: { listing: Listing; path: string; token: string | null },
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /** What a weight file from the disk is, by its header. `checkpoint_unsupported` for a pickle, `checkpoint_damaged`. */
  kindOf(file: File): Promise<'checkpoint' | 'lora'>;
  /**
   * Stores a LoRA file from the disk under `lora:import:<name>`, its name without `.safetensors`; one that is here already is not
   * stored again, and another one of the same name becomes `<name> (2)`.
   */
  importLora(file: File, onProgress: (progress: TransferProgress) => void): Promise<StoredCheckpoint>;
  /** Goes on with a stored one that is paused or damaged, from what the store knows of it. */
  resume(
    ref: string,
    token: string | null,
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /** Stops its download, in whichever tab it runs. What has arrived stays. */
  pause(ref: string): Promise<void>;
  list(): Promise<StoredCheckpoint[]>;
  remove(ref: string): Promise<void>;
  /** Reads every byte and compares; a wrong piece makes the state `damaged` and is dropped, so that `resume` fetches just it. */
  verify(ref: string, onProgress: (progress: TransferProgress) => void): Promise<StoredCheckpoint>;
  /** Writes a complete one into a folder of its name within `folder`, as plain files and a `darkroom.json` that {@link importFolder} verifies by. */
  exportFolder(
    ref: string,
    folder: FileSystemDirectoryHandle,
    onProgress: (progress: TransferProgress) => void,
  ): Promise<void>;
  /** Stores what {@link exportFolder} wrote, or any diffusers folder, so that it is there without the disk. */
  importFolder(
    name: string,
    files: { path: string; file: File }[],
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  space(): Promise<SpaceReport>;
  /** Licences that were accepted here, as `<ref>`s without variant. */
  acceptedLicenses(): Promise<string[]>;
  acceptLicense(ref: string): Promise<void>;
}
