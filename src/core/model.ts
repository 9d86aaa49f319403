/**
 * The five services of a checkpoint (load, encodeText, encodeImage, sample, decode) and what flows between them.
 * Every family of checkpoints (`src/models/*.ts`) offers exactly these; chunks know nothing else of a model.
 */
import type { ErrorCode } from './errors.ts';
import type { PixelImage } from './media.ts';
import type { TorchGenerator } from './random.ts';

/** Where a checkpoint comes from; written into operations and recordings. */
export type CheckpointRef = string;

/** How weights are kept: as they come, or quantised to blocks of 32 at 8 or 4 bits. In the order in which they are preferred. */
export const WEIGHT_VARIANTS = ['full', 'q8', 'q4'] as const;
export type WeightVariant = (typeof WEIGHT_VARIANTS)[number];

export function isVariant(value: unknown): value is WeightVariant {
  return WEIGHT_VARIANTS.some((variant) => variant === value);
}

/** What a checkpoint's networks compute in. */
export type Precision = 'f32' | 'f16';

/** What is known of an opened checkpoint before any weight is loaded. */
export interface CheckpointSummary {
  ref: CheckpointRef;
  name: string;
  /** `_class_name` of its `model_index.json`, such as `StableDiffusionPipeline`. */
  pipelineClass: string;
  /** Of all its networks. */
  parameters: number;
  /** Paths of the files that a run reads; whatever else lies in the folder need not be fetched. */
  needs: string[];
  /** How its weights can be run: a stored one that is quantised only as it is, ready-made ONNX files only as they come. */
  variants: WeightVariant[];
  /** Whether LoRAs can be merged into its weights; not into ready-made ONNX files. */
  takesLoras: boolean;
  /** Whether its network is shown the mask and what stays of a picture, and so does nothing but paint in a mask; absent = it is not. */
  inpaints?: boolean;
  /** Whether it is told the sizes of {@link SampleRequest.original_width} and so on; absent = it is not. */
  takesSizes?: boolean;
  /** Width and height of its pictures are multiples of this, in pixels; absent = 8. */
  multiple?: number;
  /** Parameters that change nothing with it, such as the guidance of a distilled one; absent = none. */
  ignores?: string[];
  /** Ids of the only samplers that can follow it; absent = all can. */
  samplers?: string[];
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
    /** What its network predicts, and whether its noise levels end in pure noise, as its scheduler's configuration says. */
    prediction_type?: string;
    rescale_betas_zero_snr?: boolean;
  };
  /** What it lacks and what follows from that, as sentences; absent where it is whole. */
  lacks?: string[];
  /** Prompts that it does well, when it says so itself. */
  prompts: string[];
}

/** What is to be estimated, with every value settled. */
export interface EstimateRequest {
  /** The kind of operation. */
  operation: string;
  /** In pixels. */
  width: number;
  height: number;
  batch_size: number;
  steps: number;
  guidance_scale: number;
  guidance_mode?: 'auto' | 'batched' | 'serial' | undefined;
  /** The share of the steps that is run on a given picture. */
  strength?: number | undefined;
  /** Pixels per side of the tiles that are decoded one after another; undefined = the picture as a whole. */
  tile_size?: number | undefined;
  /** See {@link TextRequest.phased}; undefined = only where all networks together do not fit. */
  phased?: boolean | undefined;
  /** The only variant of the weights that is to be considered; undefined = whichever fits. */
  weights?: WeightVariant | undefined;
}

/** The side of the tiles that are chosen where a picture cannot be decoded as a whole, in pixels. */
export const AUTOMATIC_TILE = 512;

/** GPU memory to plan with. No browser tells how much there is, so it is what the person says, or a guess. */
export interface MemoryBudget {
  bytes: number;
  source: 'set' | 'guess';
}

/** Bytes on the device, by what they are for. */
export interface MemoryEstimate {
  /** All networks of a run stay on the device, so that the next picture begins at once. */
  weights: number;
  /** The largest tensor, which is there twice for a moment while it is loaded. */
  loading: number;
  /** What the networks hold between their layers; null for ready-made ONNX files, which do not say. */
  activations: number | null;
  /** Latents, embeddings and pictures of the loop. */
  loop: number;
  /** The most that is there at once, of what is known. */
  peak: number;
}

/** Why something does not fit, as codes and whole sentences. */
export interface Misfit {
  code: ErrorCode;
  /** True when it is only more than a guessed budget; false when it cannot be. */
  guessed: boolean;
  message: string;
}

export interface VariantEstimate {
  variant: WeightVariant;
  precision: Precision;
  memory: MemoryEstimate;
  /** Bytes of the largest tensor, which must fit in one buffer. */
  largestTensor: number;
  /** Without loading; null when nothing was measured on this device yet. */
  seconds: number | null;
  /** Where the rate comes from: pictures made here with such weights, or the short self-measurement. */
  rate: 'pictures' | 'self-measurement' | null;
  /** Null = it fits. */
  misfit: Misfit | null;
  /** Whether this machine would compute it so: a GPU without half precision computes nothing in f16. */
  runsHere: boolean;
}

export interface Estimate {
  /** With tiles of {@link AUTOMATIC_TILE} pixels where the picture can only be decoded so. */
  request: EstimateRequest;
  /** Floating point operations, a multiplication and an addition being two; null where the networks' layers are not known. */
  flops: { step: number; total: number } | null;
  /** Those that the checkpoint can be run in, and full precision in f32 and in f16, in the order of preference. */
  variants: VariantEstimate[];
  /** The first that runs here and fits; null when none does. */
  recommended: WeightVariant | null;
  /** Of the recommended variant, or of the first that runs here. */
  seconds: number | null;
  rate: 'pictures' | 'self-measurement' | null;
  budget: MemoryBudget;
  /** Bytes to fetch before it can run; 0 for one that is here. */
  downloadBytes: number;
  /** A smaller size at which some variant fits, when none does at this one. */
  smaller: { width: number; height: number } | null;
}

/** Embeddings on the engine's device. Batch row 0 is the negative prompt when `guided`. */
export interface Conditioning {
  /** Number of tokens used by prompt and negative prompt and the encoder's limit, begin and end marks included. */
  tokens: { prompt: number; negative: number; limit: number };
  /** What was encoded, as the tokenizer spells it after cutting; null where no negative prompt was. */
  texts: { prompt: string; negative: string | null };
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
  /** Guidance of 1 and below runs without the negative prompt, as diffusers does, but for samplers that read it apart. */
  guidance_scale: number;
  /** Id of `src/samplers`; undefined = what the checkpoint asks. */
  sampler?: string | undefined;
  batch_size: number;
  /**
   * Whether the networks that read words and pictures, that sample, and that decode are on the device one after another and not together:
   * less memory, and all of them are loaded again for the next picture.
   */
  phased?: boolean | undefined;
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
  /** Whose numbers; undefined = the checkpoint's own class where it knows the sampler, else whoever has it. */
  follows?: 'diffusers' | 'comfyui' | undefined;
  /** In place of what the checkpoint says of itself; undefined = as it says. */
  prediction_type?: 'epsilon' | 'v_prediction' | undefined;
  rescale_betas_zero_snr?: boolean | undefined;
  strength: number;
  guidance_mode: 'auto' | 'batched' | 'serial';
  /** See {@link TextRequest.phased}. */
  phased?: boolean | undefined;
  random: TorchGenerator;
  /** Start picture as latents; without it sampling starts from noise. */
  start: Latents | undefined;
  /** White (255) = change, black = keep; any size, scaled to the latents. Needs `start`, or a checkpoint that `inpaints`. */
  mask: PixelImage | undefined;
  /** What lies under the mask, for a checkpoint that `inpaints`; any size. */
  picture?: PixelImage | undefined;
  /** What Stable Diffusion XL is told of the picture, in pixels; undefined = the size that is made, uncropped. */
  original_width?: number | undefined;
  original_height?: number | undefined;
  crop_top?: number | undefined;
  crop_left?: number | undefined;
  target_width?: number | undefined;
  target_height?: number | undefined;
  /** Pictures that the network is shown beside the prompt, in order; see {@link Model.encodeShown}. */
  shown?: readonly Latents[] | undefined;
  /** Whether somebody watches: then each StepReport can draw. */
  previews: boolean;
  signal: AbortSignal;
  /** The networks are on the device; `done` of `steps` steps were finished by an earlier attempt, and the next one begins. */
  onStart(steps: number, done: number): void;
  onStep(step: StepReport): void | Promise<void>;
  /**
   * What `keep` was given in an attempt that was broken off; null = from the first step. Whatever cannot be this model's, for this
   * request, is as good as null.
   */
  resume: unknown;
  /** Takes what is needed to go on from the steps done so far with the same latents; see {@link Context} in `chunk.ts`. */
  keep(state: unknown): void;
}

/** After each step: `step` of `steps` is done. `preview` draws the predicted picture without a read-back. */
export interface StepReport {
  step: number;
  steps: number;
  /** Null unless previews were asked for. */
  preview: ((canvas: OffscreenCanvas) => void) | null;
}

export interface DecodeRequest {
  /**
   * Decodes overlapping tiles of this many pixels per side one after another and blends them, as diffusers' `tiled_decode`: less memory, more
   * time, and not exactly the same picture. Undefined = whole.
   */
  tile_size?: number | undefined;
  /** See {@link TextRequest.phased}. */
  phased?: boolean | undefined;
  /** Lays `picture` over the results wherever `mask` is black; both of any size. Undefined = the pictures as the checkpoint painted them. */
  overlay?: { picture: PixelImage; mask: PixelImage } | undefined;
  signal: AbortSignal;
  /** After each picture or tile. */
  onPart: (done: number, parts: number) => void;
}

export interface Model {
  readonly summary: CheckpointSummary;
  /** Everything needed to make the same picture again: files with their SHA-256, dtypes, sampler and schedule used. */
  provenance(): Promise<Record<string, unknown>>;
  encodeText(request: TextRequest): Promise<Conditioning>;
  encodeImage(image: PixelImage, request: ImageRequest): Promise<Latents>;
  /** A picture for {@link SampleRequest.shown}, at the size that the network sees it; absent where it is shown none. */
  encodeShown?(image: PixelImage): Promise<Latents>;
  sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents>;
  /** @throws StudioError `result_invalid` where latents or pictures hold NaN or infinity, or nothing but zeros */
  decode(latents: Latents, request: DecodeRequest): Promise<PixelImage[]>;
}
