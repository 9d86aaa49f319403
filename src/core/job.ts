/** Jobs: accepted operations, their states and what is told of them while they run. */
import type { StudioErrorData } from './errors.ts';
import type { Operation } from './operation.ts';

export type JobState = 'pending' | 'running' | 'completed' | 'failed' | 'cancelled';
/** `load` and `record` are the executor's own; all others are those that chunks declare. */
export type Stage = string;

export interface Progress {
  /** The pipeline's step that is at work; null while what all of them share is loaded. */
  of: string | null;
  stage: Stage;
  /** Steps done within the stage, and how many there are; 0 of 0 where a stage has no steps. */
  step: number;
  steps: number;
  /** Of the whole job, 0 to 1, by the time that its stages take as far as that was measured; never goes back within an attempt. */
  fraction: number;
  /** Of the whole job, from measured rates; null until there is something to measure. */
  secondsLeft: number | null;
}

/** From here a job can go on in another worker and end with the same result. Survives structured clone. */
export interface ResumePoint {
  /** The parameters of each step of the plan by its id, every default settled, the seed included; files are the operation's. */
  parameters: Record<string, Record<string, unknown>>;
  /** What the worker that made it needs besides, such as latents after a step; null before the first one. Nobody else looks into it. */
  state: unknown;
}

/** A smaller operation that may succeed where one failed for want of memory or because it lost the GPU again and again. */
export interface Offer {
  /** What is different about it, for a button: "Try with tiled decoding". */
  label: string;
  operation: Operation;
}

/** One recorded file of a run. */
export interface Entity {
  run: string;
  sequence: number;
  type: string;
  filename: string;
  timestamp: string;
  sha256: string;
  metadata: Record<string, unknown>;
}

export interface Job {
  id: string;
  operation: Operation;
  state: JobState;
  submittedAt: number;
  startedAt: number | null;
  finishedAt: number | null;
  /** How often it was begun; 1 for one that ran undisturbed. */
  attempts: number;
  /** Why it waits although its turn has come, as a sentence (its folder is not open); null when nothing holds it. */
  obstacle: string | null;
  progress: Progress | null;
  notices: string[];
  /** The run folder and its entities so far, outputs included. */
  run: string | null;
  entities: Entity[];
  error: StudioErrorData | null;
  /** What to try instead of a failed one; null where nothing smaller is known. */
  offer: Offer | null;
}

/** Words of a step, in the order in which they come into being. An attempt that begins anew says them anew. */
export interface Delta {
  step: string;
  text: string;
  /** Whether they are a model's thoughts instead of its answer. */
  thinking: boolean;
}

/** What a running job reports, in order. */
export type JobEvent =
  | { type: 'progress'; progress: Progress }
  | { type: 'notice'; message: string }
  | { type: 'run'; run: string }
  | { type: 'entity'; entity: Entity }
  /** Words of a step while they come into being. They are told, not kept: what the step gives in the end is recorded. */
  | ({ type: 'delta' } & Delta)
  | { type: 'resume_point'; point: ResumePoint }
  | { type: 'offer'; offer: Offer };

/** What the engine can say of the machine it runs on. */
export interface DeviceReport {
  backend: 'webgpu' | 'wasm';
  /** Why it is not WebGPU, or what else a person should know; null when there is nothing to say. */
  note: string | null;
  adapter: string;
  /** Floating point type that the networks compute in. */
  precision: 'f32' | 'f16';
  limits: { maxBufferSize: number; maxStorageBufferBindingSize: number } | null;
  /** Which build of ONNX Runtime runs. */
  runtime: 'jspi' | 'asyncify';
  /** That compute on the processor. */
  threads: number;
}

/** What the engine is at. */
export interface EngineState {
  device: DeviceReport;
  /** A job runs. */
  isBusy: boolean;
  /** The checkpoint that is on the device, by ref, and which of its networks; null where there is none. */
  prepared: { checkpoint: string; networks: string[] } | null;
}

/** What the engine holds and has done, for tests and measurements. */
export interface LedgerReport {
  createdBuffers: number;
  liveBuffers: number;
  liveBytes: number;
  /** Buffers mapped for reading since the start, by whoever then waited for it. */
  readMaps: number;
  /** Those mapped beside them to keep where a job stands, for which nothing waited. */
  snapshotMaps: number;
  /** Compute dispatches and the bytes of all buffers bound to them; counted only when asked for at the start. */
  launches: number;
  boundBytes: number;
  /** ONNX Runtime's heap, which never shrinks. */
  wasmHeapBytes: number;
}
