/**
 * Arithmetic on latents between the networks. The GPU kernels and the plain arrays of the wasm backend implement the same interface, so a
 * model is written once.
 */
import type * as Ort from 'onnxruntime-web';
import type { PixelImage } from '../core/media.ts';
import type { GuidanceWeights, Moments } from '../guidance/guidance.ts';
import type { Level } from '../predictions/prediction.ts';
import type { Step } from '../samplers/sampler.ts';

/** A tensor on the engine's device, f32 unless it holds token ids or was requested as f16; disposing it twice is a bug. */
export interface DeviceTensor {
  readonly dims: readonly number[];
  /** ONNX Runtime's view of the same memory. */
  readonly ort: Ort.Tensor;
  dispose(): void;
}

/** Buffers of one sampling loop. `input` holds the latents `copies` times, scaled for the network. */
export interface LoopState {
  x: DeviceTensor;
  input: DeviceTensor;
  copies: number;
  denoised: DeviceTensor;
  /** Ring of `historyLength` slots, each the size of x. */
  history: DeviceTensor | null;
  historyLength: number;
  historyHead: number;
  /** image | noise | mask, each the size of x. */
  blend: DeviceTensor | null;
}

/** Network outputs for the negative prompt and the prompt; they may share a tensor, with the prompt's half second. */
export interface TwoPredictions {
  uncond: DeviceTensor;
  cond: DeviceTensor;
  condOffset: number;
  /** Elements in all pictures together. */
  count: number;
}

export interface StepArguments {
  step: Step;
  state: LoopState;
  /** Network outputs; with batched guidance both are the same tensor, with the conditional half second. */
  uncond: DeviceTensor | null;
  cond: DeviceTensor;
  condOffset: number;
  guidance: number;
  /** Standard normal noise, the size of x, for a step that adds some. */
  noise: DeviceTensor | null;
  /** Scale of the next network input. */
  nextInputScale: number;
  /** How the kept region is set after this step. */
  blend: Level | null;
}

/** RGB per latent channel, then a constant: the colours the checkpoint's own decoder gives its latents. */
export type PreviewColours = readonly (readonly [number, number, number])[];

/** Copies tensors to the CPU, one at a time, without the loop waiting for them. */
export interface Snapshots {
  /**
   * Copies f32 tensors in their state after everything submitted so far. Never blocks: `taken` is called later, or never if the device is
   * lost.
   * @returns false if an earlier copy is still under way; then nothing is copied
   */
  take(tensors: readonly DeviceTensor[], taken: (contents: Float32Array<ArrayBuffer>[]) => void): boolean;
  /** Drops the copy that is under way. */
  dispose(): void;
}

export interface Arithmetic {
  upload(data: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>, dims: readonly number[]): DeviceTensor;
  /** @param type `float16` only for a network's f16 inputs and outputs; nothing else but {@link convert} reads it */
  empty(dims: readonly number[], type?: 'float32' | 'float16'): DeviceTensor;
  /**
   * Copies all elements between an f32 and an f16 tensor, in either direction. Narrowing on the GPU clamps to ±65504 and rounds as the
   * device does; on arrays it rounds to nearest even and overflows to infinity.
   */
  convert(out: DeviceTensor, from: DeviceTensor): void;
  /** Overwrites the whole tensor. */
  write(tensor: DeviceTensor, data: Float32Array<ArrayBuffer>): void;
  /** Copies `count` elements from `from` at `start` to `to` at `at`. */
  copy(from: DeviceTensor, start: number, to: DeviceTensor, at: number, count: number): void;
  read(tensor: DeviceTensor): Promise<Float32Array<ArrayBuffer>>;
  /** out = a·x + b·y over `count` elements, written `copies` times; x and y repeat when they are shorter. */
  combine(out: DeviceTensor, a: number, x: DeviceTensor, b: number, y: DeviceTensor | null, copies?: number): void;
  /** Samples the encoder's posterior; `moments` is [1, 2·channels, h, w]. */
  posterior(out: DeviceTensor, moments: DeviceTensor, noise: DeviceTensor, scale: number): void;
  /** The statistics of each of `pictures` that guidance needs; waits for the device and reads back a few numbers each. */
  moments(predictions: TwoPredictions, pictures: number): Promise<Moments[]>;
  /** Mixes the two predictions of each picture by weights of its own; `out` is the size of the latents. */
  guide(out: DeviceTensor, predictions: TwoPredictions, weights: readonly GuidanceWeights[]): void;
  step(args: StepArguments): void;
  snapshots(): Snapshots;
  /**
   * @param latents the input of the decoder
   * @throws StudioError `result_invalid` if either contains NaN or infinity, or the picture nothing but zeros
   */
  toPixels(decoded: DeviceTensor, latents: DeviceTensor): Promise<PixelImage[]>;
  /** Draws the first picture of the batch on a canvas that gets the latents' size. */
  preview(latents: DeviceTensor, colours: PreviewColours, canvas: OffscreenCanvas): void;
  /** Resolves once everything submitted so far is computed. Maps no buffer. */
  settle(): Promise<void>;
}

export function elements(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

/** Labels the buffers of {@link Snapshots}, so the ledger counts them separately. */
export const SNAPSHOT = 'snapshot';

/** No decoder outputs zero everywhere; a command dropped by the device leaves such a buffer. */
export const EMPTY =
  'The picture came out empty, which means that the device did not compute it; try again, or reload the page.';

export const NOT_FINITE =
  'The picture came out as invalid numbers (NaN), which happens when a checkpoint overflows in half precision; run it with ?precision=f32, or try another checkpoint.';

export const EMPTY_SOUND =
  'The sound came out empty, which means that the device did not compute it; try again, or reload the page.';

export const NOT_FINITE_SOUND =
  'The sound came out as invalid numbers (NaN); try another checkpoint, or other settings.';
