/**
 * What happens to latents between the networks, on whichever device they live: the GPU kernels and the plain arrays of
 * the wasm backend implement the same interface, so a model is written once.
 */
import type * as Ort from 'onnxruntime-web';
import type { PixelImage } from '../core/media.ts';
import type { Level } from '../predictions/prediction.ts';
import type { Step } from '../samplers/sampler.ts';

/** A tensor on the engine's device, f32 unless it holds token ids or was asked for as f16; disposing it twice is an error of ours. */
export interface DeviceTensor {
  readonly dims: readonly number[];
  /** The same memory as ONNX Runtime sees it. */
  readonly ort: Ort.Tensor;
  dispose(): void;
}

/** Buffers of one sampling loop. `input` holds `copies` times the latents, scaled for the network. */
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

export interface StepArguments {
  step: Step;
  state: LoopState;
  /** Network outputs; with batched guidance both are the same tensor, the conditional half second. */
  uncond: DeviceTensor | null;
  cond: DeviceTensor;
  condOffset: number;
  guidance: number;
  /** Standard normal noise, the size of x, for a step that adds some. */
  noise: DeviceTensor | null;
  /** Scale of the next network input. */
  nextInputScale: number;
  /** What the kept region is set to after this step. */
  blend: Level | null;
}

/** rgb per latent channel, then a constant: how the checkpoint's own decoder colours its latents. */
export type PreviewColours = readonly (readonly [number, number, number])[];

/** Copies of tensors on their way to the CPU, beside a loop that does not wait for them: one at a time. */
export interface Snapshots {
  /**
   * Copies f32 tensors as they are after everything submitted so far. Never waits: `taken` is called some time later, or never where the
   * device is lost meanwhile.
   * @returns false while an earlier one is on its way; then nothing is copied
   */
  take(tensors: readonly DeviceTensor[], taken: (contents: Float32Array<ArrayBuffer>[]) => void): boolean;
  /** Drops the one that is on its way. */
  dispose(): void;
}

export interface Arithmetic {
  upload(data: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>, dims: readonly number[]): DeviceTensor;
  /** @param type `float16` only for what a network takes or gives in that type; nothing else here reads it but {@link convert} */
  empty(dims: readonly number[], type?: 'float32' | 'float16'): DeviceTensor;
  /**
   * Copies all elements between an f32 and an f16 tensor, in either direction. Narrowing clamps to ±65504 on the GPU, whose rounding is
   * the device's; on arrays it rounds to the nearest even and overflows to infinity.
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
  step(args: StepArguments): void;
  snapshots(): Snapshots;
  /**
   * @param latents what was decoded
   * @throws StudioError `result_invalid` when there is NaN or infinity in either, or nothing but zeros in the picture
   */
  toPixels(decoded: DeviceTensor, latents: DeviceTensor): Promise<PixelImage[]>;
  /** Draws the first picture of the batch; the canvas takes the latents' size. */
  preview(latents: DeviceTensor, colours: PreviewColours, canvas: OffscreenCanvas): void;
  /** Resolves when everything submitted so far has been computed. Maps no buffer. */
  settle(): Promise<void>;
}

export function elements(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

/** Labels the buffers of {@link Snapshots}, so that the ledger counts them apart. */
export const SNAPSHOT = 'snapshot';

/** No decoder computes exactly zero everywhere; a command that the device dropped leaves such a buffer. */
export const EMPTY =
  'The picture came out empty, which means that the device did not compute it; try again, or reload the page.';

export const NOT_FINITE =
  'The picture came out as invalid numbers (NaN), which happens when a checkpoint overflows in half precision; run it with ?precision=f32, or try another checkpoint.';
