/**
 * The five services of a checkpoint (load, encodeText, encodeImage, sample, decode) and what flows between them.
 * Every family of checkpoints (`src/models/*.ts`) offers exactly these; chunks know nothing else of a model.
 */
import type { PixelImage } from './media.ts';
import type { TorchGenerator } from './random.ts';

/** Where a checkpoint comes from; written into operations and recordings. */
export type CheckpointRef = string;

/** What is known of an opened checkpoint before any weight is loaded. */
export interface CheckpointSummary {
  ref: CheckpointRef;
  name: string;
  /** `_class_name` of its `model_index.json`, such as `StableDiffusionPipeline`. */
  pipelineClass: string;
  /** Bytes of all its weight files, and of those weights once on the device as this machine computes them. */
  bytes: number;
  memoryBytes: number;
  /** The largest single tensor on the device: it must fit in one GPU buffer. */
  largestTensorBytes: number;
  /** What this checkpoint itself asks for: size in pixels, sampler and schedule ids; steps and guidance where it says. */
  defaults: {
    width: number;
    height: number;
    sampler: string;
    schedule: string;
    steps?: number;
    guidance_scale?: number;
  };
  /** Prompts that it does well, when it says so itself. */
  prompts: string[];
}

/** Embeddings on the engine's device. Batch row 0 is the negative prompt when `guided`. */
export interface Conditioning {
  /** Number of tokens used by prompt and negative prompt and the encoder's limit, begin and end marks included. */
  tokens: { prompt: number; negative: number; limit: number };
  dispose(): void;
}

/** Latents `[batch, channels, height/8, width/8]`, f32, on the engine's device, as the sampler leaves them (scaled). */
export interface Latents {
  readonly dims: readonly [number, number, number, number];
  /** Copies them to the CPU: the only read-back between the first step and the picture, and only on request. */
  read(): Promise<Float32Array<ArrayBuffer>>;
  dispose(): void;
}

export interface TextRequest {
  prompt: string;
  negative_prompt: string;
  /** Guidance of 1 and below runs without the negative prompt, as diffusers does. */
  guidance_scale: number;
  batch_size: number;
}

export interface ImageRequest {
  /** Target size in pixels; the picture is scaled to it (Lanczos) first. */
  width: number;
  height: number;
  batch_size: number;
  /** Draws the sample of the encoder's posterior, before the start noise, from the same generator as diffusers. */
  random: TorchGenerator;
}

export interface SampleRequest {
  width: number;
  height: number;
  batch_size: number;
  steps: number;
  guidance_scale: number;
  /** Ids of `src/samplers` and `src/schedules`; undefined = what the checkpoint asks. */
  sampler?: string | undefined;
  schedule?: string | undefined;
  strength: number;
  guidance_mode: 'auto' | 'batched' | 'serial';
  random: TorchGenerator;
  /** Start picture as latents; without it sampling starts from noise. */
  start: Latents | undefined;
  /** White (255) = change, black = keep; any size, scaled to the latents. Needs `start`. */
  mask: PixelImage | undefined;
  /** Whether somebody watches: then each StepReport can draw. */
  previews: boolean;
  signal: AbortSignal;
  /** The networks are on the device and the first of `steps` steps begins. */
  onStart(steps: number): void;
  onStep(step: StepReport): void | Promise<void>;
}

/** After each step: `step` of `steps` is done. `preview` draws the predicted picture without a read-back. */
export interface StepReport {
  step: number;
  steps: number;
  /** Null unless previews were asked for. */
  preview: ((canvas: OffscreenCanvas) => void) | null;
}

export interface Model {
  readonly summary: CheckpointSummary;
  /** Everything needed to make the same picture again: files with their SHA-256, dtypes, sampler and schedule used. */
  provenance(): Promise<Record<string, unknown>>;
  encodeText(request: TextRequest): Promise<Conditioning>;
  encodeImage(image: PixelImage, request: ImageRequest): Promise<Latents>;
  sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents>;
  decode(latents: Latents): Promise<PixelImage[]>;
}
