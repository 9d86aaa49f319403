/** Jobs: accepted operations, their states and what is told of them while they run. */
import type { StudioErrorData } from './errors.ts';
import type { Operation } from './operation.ts';

export type JobState = 'pending' | 'running' | 'completed' | 'failed' | 'cancelled';
export type Stage = 'load' | 'encode' | 'sample' | 'decode' | 'record';

export interface Progress {
  stage: Stage;
  /** Steps done within the stage, and how many there are; 0 of 0 where a stage has no steps. */
  step: number;
  steps: number;
  /** Measured from the steps so far; null until there is something to measure. */
  secondsLeft: number | null;
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
  progress: Progress | null;
  notices: string[];
  /** The run folder and its entities so far, outputs included. */
  run: string | null;
  entities: Entity[];
  error: StudioErrorData | null;
}

/** What a running job reports, in order. */
export type JobEvent =
  | { type: 'progress'; progress: Progress }
  | { type: 'notice'; message: string }
  | { type: 'run'; run: string }
  | { type: 'entity'; entity: Entity };

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
}

/** What the engine holds and has done, for tests and measurements. */
export interface LedgerReport {
  createdBuffers: number;
  liveBuffers: number;
  liveBytes: number;
  /** Buffers mapped for reading since the start. */
  readMaps: number;
  /** Compute dispatches and the bytes of all buffers bound to them; counted only when asked for at the start. */
  launches: number;
  boundBytes: number;
  /** ONNX Runtime's heap, which never shrinks. */
  wasmHeapBytes: number;
}
