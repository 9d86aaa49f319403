/** Jobs: accepted operations, their states, and the events while they run. */
import type { StudioErrorData } from './errors.ts';
import type { Operation } from './operation.ts';

export type JobState = 'pending' | 'running' | 'completed' | 'failed' | 'cancelled';
/** `load` and `record` belong to the executor; chunks declare all others. */
export type Stage = string;

export interface Progress {
  /** The pipeline's current step; null while loading what they share. */
  of: string | null;
  stage: Stage;
  /** Steps done within the stage, and how many there are; 0 of 0 where a stage has no steps. */
  step: number;
  steps: number;
  /** Of the whole job, 0 to 1, weighted by the measured time of its stages; never goes back within an attempt. */
  fraction: number;
  /** Of the whole job, from measured rates; null until there is something to measure. */
  secondsLeft: number | null;
  /** The other machine that is making it: its address, and the number of jobs ahead there. */
  elsewhere?: { server: string; ahead: number };
}

/** Where a job can continue in another worker with the same result. Survives structured clone. */
export interface ResumePoint {
  /** The parameters of each planned step, by its id, with every default settled, including the seed; files stay in the operation. */
  parameters: Record<string, Record<string, unknown>>;
  /** The worker's own state, such as the latents after a step; null before the first one. Opaque to everyone else. */
  state: unknown;
}

/** A smaller operation to try after one ran out of memory or kept losing the GPU. */
export interface Offer {
  /** What it changes, as a button's label: "Try with tiled decoding". */
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
  /** How many times it was started; 1 if it ran undisturbed. */
  attempts: number;
  /** A sentence on why it waits although its turn has come (such as a folder that is not open); null if nothing holds it. */
  obstacle: string | null;
  progress: Progress | null;
  notices: string[];
  /** The run folder and its entities so far, outputs included. */
  run: string | null;
  entities: Entity[];
  error: StudioErrorData | null;
  /** What to try after it failed; null if nothing smaller is known. */
  offer: Offer | null;
}

/** Text a step wrote, in order. A new attempt sends it again from the start. */
export interface Delta {
  step: string;
  text: string;
  /** Whether they are a model's thoughts instead of its answer. */
  thinking: boolean;
}

/** Samples of a sound that a step is making: each once and in order. */
export interface SoundPiece {
  step: string;
  /** Samples before these, of each channel. */
  from: number;
  /** Samples per second. */
  rate: number;
  /** A plane for each, −1 to 1. */
  channels: readonly Float32Array[];
}

/** What a running job reports, in order. */
export type JobEvent =
  | { type: 'progress'; progress: Progress }
  | { type: 'notice'; message: string }
  | { type: 'run'; run: string }
  | { type: 'entity'; entity: Entity }
  /** Text as a step writes it. It is shown, not kept; the step's final output is recorded. */
  | ({ type: 'delta' } & Delta)
  /** A sound as a step makes it. It is played, not kept. */
  | ({ type: 'sound' } & SoundPiece)
  | { type: 'resume_point'; point: ResumePoint }
  | { type: 'offer'; offer: Offer };

/** What the engine reports about the machine it runs on. */
export interface DeviceReport {
  backend: 'webgpu' | 'wasm';
  /** Why it is not WebGPU, or anything else a person should know; null if nothing. */
  note: string | null;
  adapter: string;
  /** Floating point type that the networks compute in. */
  precision: 'f32' | 'f16';
  limits: { maxBufferSize: number; maxStorageBufferBindingSize: number } | null;
  /** Which build of ONNX Runtime runs. */
  runtime: 'jspi' | 'asyncify' | 'node';
  /** That compute on the processor. */
  threads: number;
}

/** What the engine is doing. */
export interface EngineState {
  device: DeviceReport;
  /** A job runs. */
  isBusy: boolean;
  /** The ref of the checkpoint on the device and the networks that are there; null if none is. */
  prepared: { checkpoint: string; networks: string[] } | null;
}

/** `auto` computes in blocks what does not fit as a whole, on a GPU; the others are for tests: always, with all blocks resident or none, or never. */
export type BlockMode = 'auto' | 'resident' | 'streamed' | 'off';

/** What the engine holds and has done; for tests and measurements. */
export interface LedgerReport {
  createdBuffers: number;
  liveBuffers: number;
  liveBytes: number;
  /** Of blocks' weights, see `block_memory.ts`, now and at most since the start. */
  weightBytes: number;
  mostWeightBytes: number;
  /** Bytes of blocks' weights brought to the device, what that took, and how long blocks waited for it with nothing to compute. */
  uploadedBytes: number;
  uploadMs: number;
  waitedMs: number;
  /** Blocking reads of buffers since the start. */
  readMaps: number;
  /** Non-blocking reads of buffers, for resume points. */
  snapshotMaps: number;
  /** Compute dispatches, and the bytes of all buffers bound to them; counted only if requested at the start. */
  launches: number;
  boundBytes: number;
  /** Submits to the device's queue, passes that launches are in, and clears of buffers, which end a pass; counted likewise. */
  submits: number;
  passes: number;
  clears: number;
  /** Runs of networks since the start. */
  networkRuns: number;
  /** When the first run since the last report began and the last one ended, in milliseconds since 1970; null if there was none. */
  firstRunAt: number | null;
  lastRunAt: number | null;
  /** ONNX Runtime's heap, which never shrinks. */
  wasmHeapBytes: number;
}
