/** The interface between the page and the workers that execute jobs. `connection.ts` is the transport. */
import type { CheckedAddition } from '../src/core/additions.ts';
import type {
  BlockMode,
  DeviceReport,
  EngineState,
  JobEvent,
  LedgerReport,
  ResumePoint,
  Stage,
} from '../src/core/job.ts';
import type { ComfySurvey } from '../src/core/comfyui.ts';
import type {
  CheckpointSummary,
  Estimate,
  EstimateRequest,
  MemoryBudget,
  PromptSyntax,
  TokenCount,
} from '../src/core/model.ts';
import type { Operation } from '../src/core/operation.ts';
import type { EngineFacts, Probe, RemoteServer, SignInProof, Usage } from '../src/core/remote.ts';
import type { Change } from '../src/core/smaller.ts';
import type { TextDelta, TextRequest, TextResult } from '../src/core/text_service.ts';
import type { LanguageConnection } from '../src/language/language_api.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';

/** How to start the engine; `auto` and off by default. */
export interface StartOptions {
  backend?: 'auto' | 'webgpu' | 'wasm';
  /** The UNet's precision; `auto` is f16 if the GPU can. */
  precision?: 'auto' | 'f32' | 'f16';
  /** Counts every launch, for measurements; it slows the engine. */
  countLaunches?: boolean;
  /** GPU memory to plan with in bytes, set by the person; null = a guess. */
  memoryBytes?: number | null;
  /** Threads for computing on the processor, from the address; null or absent = the best number. */
  threads?: string | null;
  /** Where ONNX Runtime's own files lie, an address that ends in a slash; where nothing is said, those built with the page. */
  runtimeFiles?: string;
  /** How networks run that can be cut into blocks, see `Engine.blocks`; `auto` by default. */
  blocks?: BlockMode;
  /** Whether recorded pictures contain how they were made; on by default. */
  inscribes?: boolean;
}

/** What to execute, and how far earlier attempts got. */
export interface ExecuteRequest {
  jobId: string;
  /** Milliseconds since 1970. */
  submittedAt: number;
  operation: Operation;
  /** The checkpoints and language models it runs, by ref. */
  sources: Record<string, CheckpointSource>;
  inscribes: boolean;
  /** From 1. */
  attempt: number;
  /** The run an earlier attempt is known to have opened; null = none is. Nothing is recorded twice. */
  run: string | null;
  /** Where to continue; null = at the beginning. */
  point: ResumePoint | null;
}

/** What a worker asks of the page while executing a job. */
export interface JobPage {
  /** A key that the person entered. Rejects with `invalid_operation` if there is none of this name. */
  secret(name: string): Promise<string>;
  /** The servers that the person entered for an engine. */
  servers(engine: string): Promise<RemoteServer[]>;
  /** Shows an unfinished picture from another machine. */
  develop(picture: Blob): Promise<void>;
  /** Adds the usage of a request to a server, by the server's id. */
  used(server: string, usage: Usage): Promise<void>;
  /**
   * Asks a language model on a server. The worker that can reach it does so, whichever worker runs the job.
   * @param id by which to stop it
   * @param request one whose model is a `RemoteModel`
   */
  write(id: string, request: TextRequest, onDelta: (delta: TextDelta) => unknown): Promise<Written>;
  stopWriting(id: string): Promise<void>;
  /** A connection to the language engine, which is started if necessary. */
  language(): Promise<LanguageConnection>;
  /** Like {@link language}, but null if none is running. */
  languageIfAlive(): Promise<LanguageConnection | null>;
  /** Frees an idle graph engine's memory, unless a model of this many bytes fits beside it. */
  makeRoom(bytes: number): Promise<void>;
}

/** Text written by a language model on a server. */
export interface Written {
  result: TextResult;
  usage: Usage;
}

/** Executes jobs, one at a time. */
export interface JobExecutor {
  /**
   * Events arrive in order, and all before the answer; see {@link EventSender}. Each reports something finished, so they are the signs of
   * life the watchdog waits for. A failed or cancelled run stays open: the caller either continues it in another attempt or closes it.
   */
  execute(request: ExecuteRequest, onEvent: (event: JobEvent) => void, page: JobPage): Promise<{ run: string }>;
  /** Stops the job at its next report, between two steps; its `execute` then rejects with `cancelled`. Unknown ids are ignored. */
  cancel(jobId: string): Promise<void>;
}

/** Executes jobs that do not use the graph engine: those that need no GPU, in parallel, and those of language models. */
export interface TaskApi extends JobExecutor {
  /** Must be the first call. `recorder` speaks {@link RecorderApi}. */
  connect(recorder: MessagePort): Promise<void>;
}

/** Executes jobs with a step on another machine; it can reach the servers that were entered when it started. */
export interface RemoteApi extends TaskApi {
  /** Engines that servers are entered for. */
  engines(): Promise<EngineFacts[]>;
  /** Probes a server: what it is, or why it cannot be used. */
  probe(server: RemoteServer, key: string | null): Promise<Probe>;
  /** The key obtained by signing in. */
  signIn(server: RemoteServer, proof: SignInProof): Promise<string>;
  /** See {@link JobPage.write}. Rejects with `cancelled` if stopped. */
  write(
    id: string,
    request: TextRequest,
    onDelta: (delta: TextDelta) => unknown,
    page: Pick<JobPage, 'servers' | 'secret'>,
  ): Promise<Written>;
  stopWriting(id: string): Promise<void>;
  /**
   * What an engine's servers make of a person's own workflow.
   * @param keys by secret name
   */
  survey(workflow: unknown, servers: readonly RemoteServer[], keys: Record<string, string>): Promise<ComfySurvey>;
}

/** The owner of the GPU: one per generation worker. Calls may overlap; `execute` is called once at a time. */
export interface GenerationApi extends JobExecutor {
  /** Must be the first call. `recorder` speaks {@link RecorderApi}. */
  start(options: StartOptions & { recorder: MessagePort }): Promise<DeviceReport>;
  /** Reads configs and headers only. */
  openCheckpoint(source: CheckpointSource): Promise<CheckpointSummary>;
  /** A smaller version of a failed operation that may succeed here; null if none is known. Reads configs and headers only. */
  smaller(request: {
    operation: Operation;
    sources: ExecuteRequest['sources'];
    point: ResumePoint | null;
    stage: Stage | null;
  }): Promise<Change | null>;
  /** Where previews are drawn; null stops them. The canvas is transferred. */
  watch(canvas: OffscreenCanvas | null): Promise<void>;
  /** Draws an unfinished picture from elsewhere on that canvas, unless a job runs here. */
  show(picture: Blob): Promise<void>;
  ledger(): Promise<LedgerReport>;
  /** How much of each text encoder of a checkpoint a prompt takes; no weights are read. Empty where nothing is known of that. */
  countTokens(source: CheckpointSource, prompt: string, syntax: PromptSyntax): Promise<TokenCount[]>;
  /** Which stored LoRAs fit a checkpoint, judged by headers only. Empty if it takes none. */
  checkLoras(source: CheckpointSource): Promise<LoraFit[]>;
  /** Which stored additions of a kind fit a checkpoint, judged by headers only. Empty if it takes none. */
  checkAdditions(source: CheckpointSource, kind: CheckedAddition): Promise<Omit<LoraFit, 'note'>[]>;
  /**
   * What a run would need, judged by configs and headers only, and whether it fits. The first call briefly measures the device, unless a
   * job runs.
   */
  estimate(source: CheckpointSource, request: EstimateRequest): Promise<Estimate>;
  /** Sets the GPU memory to plan with; null = a guess. Returns the resulting budget. */
  engineState(): Promise<EngineState>;
  /**
   * Loads the networks of an operation's main checkpoint if they certainly fit. Does nothing while a job runs; a new job takes over and
   * finds what was loaded so far. Rejects as the job would.
   */
  prepare(request: Pick<ExecuteRequest, 'operation' | 'sources'>): Promise<void>;
  /** Frees the device's memory, unless a job runs. */
  unload(): Promise<void>;
  planWith(memoryBytes: number | null): Promise<MemoryBudget>;
  /** See {@link JobPage.makeRoom}; nothing is freed while a job runs. */
  makeRoom(bytes: number): Promise<void>;
}

/** How a stored LoRA fits a checkpoint. */
export interface LoraFit {
  ref: string;
  /** Its name in prompts. */
  name: string;
  /** A sentence on why it cannot be used with that checkpoint; null if it can. */
  problem: string | null;
  /** A sentence on what of it would not be used; null if all of it would. */
  note: string | null;
}
