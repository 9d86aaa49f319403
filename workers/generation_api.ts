/** What the page and the workers that execute jobs say to one another. How it crosses is in `connection.ts`. */
import type { DeviceReport, EngineState, JobEvent, LedgerReport, ResumePoint, Stage } from '../src/core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget } from '../src/core/model.ts';
import type { Operation } from '../src/core/operation.ts';
import type { EngineFacts, Probe, RemoteServer } from '../src/core/remote.ts';
import type { Change } from '../src/core/smaller.ts';
import type { LanguageConnection } from '../src/language/language_api.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';

/** How the engine is started; `auto` and off where nothing is said. */
export interface StartOptions {
  backend?: 'auto' | 'webgpu' | 'wasm';
  /** What the UNet computes in; `auto` is f16 where the GPU can. */
  precision?: 'auto' | 'f32' | 'f16';
  /** Counts every launch for measurements, which slows the engine. */
  countLaunches?: boolean;
  /** GPU memory to plan with, in bytes, as the person says; null = a guess. */
  memoryBytes?: number | null;
  /** How many threads compute on the processor, as the address says; null or nothing = what is best here. */
  threads?: string | null;
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

/** What a worker asks of the page while it executes a job. */
export interface JobPage {
  /** A key that the person entered. Rejects with `invalid_operation` when there is none of this name. */
  secret(name: string): Promise<string>;
  /** The servers that the person entered for an engine. */
  servers(engine: string): Promise<RemoteServer[]>;
  /** Shows a picture while it comes into being on another machine. */
  develop(picture: Blob): Promise<void>;
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

/** Executes jobs with a step on another machine; it reaches the addresses of the servers that were entered when it was started. */
export interface RemoteApi extends TaskApi {
  /** Engines that servers are entered for. */
  engines(): Promise<EngineFacts[]>;
  /** What a server is, or why it cannot be used. */
  probe(server: RemoteServer, key: string | null): Promise<Probe>;
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
  /** Draws a picture that comes into being elsewhere on that canvas; not while a job runs here. */
  show(picture: Blob): Promise<void>;
  ledger(): Promise<LedgerReport>;
  /** Which of the LoRAs that are stored here fit a checkpoint, from headers only. Empty for one that takes none. */
  checkLoras(source: CheckpointSource): Promise<LoraFit[]>;
  /**
   * What a run would need, from configs and headers only, and whether it fits. The first call measures the device for a moment,
   * unless a job runs.
   */
  estimate(source: CheckpointSource, request: EstimateRequest): Promise<Estimate>;
  /** Plans with this much GPU memory from now on; null = a guess. Answers with what is planned with. */
  engineState(): Promise<EngineState>;
  /**
   * Brings the networks of an operation's main checkpoint to the device, where that surely fits. Nothing while a job runs; one that begins goes
   * first, and finds what was brought by then. Rejects as its job would.
   */
  prepare(request: Pick<ExecuteRequest, 'operation' | 'sources'>): Promise<void>;
  /** Frees what is on the device, unless a job runs. */
  unload(): Promise<void>;
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
