/**
 * The five services of a checkpoint that paints (load, encodeText, encodeImage, sample, decode), the one service of an upscaler, and the
 * values between them. Every family of checkpoints (`src/models/*.ts`) offers exactly these; chunks know nothing else about a model.
 */
import type { ControlKind, Detector } from './controlnets.ts';
import type { ErrorCode } from './errors.ts';
import type { GuidanceRequest } from './guidance.ts';
import type { CpuTensor, PixelImage, Region } from './media.ts';
import type { ModelSamplingRequest } from './model_sampling.ts';
import type { NoiseSource } from './noise.ts';

/** Where a checkpoint comes from; written into operations and recordings. */
export type CheckpointRef = string;

/** How weights are stored: as they come, or quantised in blocks of 32 at 8 or 4 bits. In order of preference. */
export const WEIGHT_VARIANTS = ['full', 'q8', 'q4'] as const;
export type WeightVariant = (typeof WEIGHT_VARIANTS)[number];

export function isVariant(value: unknown): value is WeightVariant {
  return WEIGHT_VARIANTS.some((variant) => variant === value);
}

/** What a checkpoint's networks compute in. */
export type Precision = 'f32' | 'f16';

/** What is known about an opened checkpoint before any weight is loaded. */
export interface CheckpointSummary {
  ref: CheckpointRef;
  name: string;
  /** `_class_name` of its `model_index.json`, such as `StableDiffusionPipeline`. */
  pipelineClass: string;
  /** Of all its networks. */
  parameters: number;
  /** Paths of the files that a run reads; anything else in the folder need not be fetched. */
  needs: string[];
  /** How its weights can be run. Quantised weights and ready-made ONNX files run only as they are. */
  variants: WeightVariant[];
  /** Whether LoRAs can be merged into its weights; impossible for ready-made ONNX files. */
  takesLoras: boolean;
  /** Whose LoRAs these are, as people call the family; absent = nothing tells. */
  loraFamilies?: readonly string[];
  /** Whether ControlNets can lead it; absent = they cannot. */
  takesControlNets?: boolean;
  /** Whether pictures can be prompts for it, through IP-Adapters; absent = they cannot. */
  takesImagePrompts?: boolean;
  /** Whether another autoencoder can take the place of its own; absent = none can. */
  takesVae?: boolean;
  /** Whether it is an inpainting network, which sees the mask and the rest of the picture and does nothing else; absent = it is not. */
  inpaints?: boolean;
  /** Whether it is conditioned on sizes ({@link SampleRequest.original_width} and so on); absent = it is not. */
  takesSizes?: boolean;
  /** Its pictures' width and height are multiples of this, in pixels; absent = 8. */
  multiple?: number;
  /** The longest side of its pictures, in pixels; absent = whatever fits the device. */
  longestSide?: number;
  /** How many pictures it can be given to work from; absent = as many as its chunk takes. */
  mostPictures?: number;
  /** Parameters that have no effect on it, such as the guidance of a distilled model; absent = none. */
  ignores?: string[];
  /** Ids of the only samplers that work with it; absent = all do. */
  samplers?: string[];
  /** The factor by which an upscaler enlarges width and height; absent = it is no upscaler. */
  scale?: number;
  /** The most frames of its videos; absent = it makes pictures. */
  mostFrames?: number;
  /** Whether its videos may, or must, begin with a given picture; absent = they cannot. */
  firstFrame?: 'may' | 'must';
  /** Whether its videos may, or must, end with a given picture; absent = they cannot. */
  lastFrame?: 'may' | 'must';
  /** The longest sound that it makes, in seconds; absent = it makes none. */
  seconds?: number;
  /** Latents per second of sound, if its work grows with the length of what it makes; absent = it does not. */
  latentsPerSecond?: number;
  /** Bytes of all its weight files, and of the same weights on the device in this machine's precision. */
  bytes: number;
  memoryBytes: number;
  /** The largest single tensor on the device: it must fit in one GPU buffer. */
  largestTensorBytes: number;
  /** The checkpoint's own defaults: size in pixels, sampler and schedule ids, and steps and guidance if it says. */
  defaults: {
    width: number;
    height: number;
    sampler: string;
    schedule: string;
    steps?: number;
    guidance_scale?: number;
    /** From its scheduler's configuration: what its network predicts, and whether its noise levels end in pure noise. */
    prediction_type?: string;
    rescale_betas_zero_snr?: boolean;
    /** The factor by which its pictures are best enlarged afterwards, with the upscaler shipped with the page. */
    upscale?: number;
  };
  /** Sentences on what is missing from it and what that means; absent if it is complete. */
  lacks?: string[];
  /** Prompts that suit it, if it names any. */
  prompts: string[];
}

/** What to estimate, with every value settled. */
export interface EstimateRequest {
  /** The kind of operation. */
  operation: string;
  /** In pixels. */
  width: number;
  height: number;
  /** Pictures, layers of one, or frames of a video. */
  batch_size: number;
  steps: number;
  guidance_scale: number;
  /** Undefined = the kind of operation says it. */
  startsFromPicture?: boolean | undefined;
  guidance_mode?: 'auto' | 'batched' | 'serial' | undefined;
  /** The share of the steps that run on a given picture. */
  strength?: number | undefined;
  /** Whether it starts from a sound; undefined = it does not. */
  fromSound?: boolean | undefined;
  /** Pixels per side of the tiles that are decoded one after another; undefined = the picture as a whole. */
  tile_size?: number | undefined;
  /** See {@link TextRequest.phased}; undefined = only if the networks do not fit together. */
  phased?: boolean | undefined;
  /** The only variant of the weights to consider; undefined = whichever fits. */
  weights?: WeightVariant | undefined;
  /** How many ControlNets lead it; undefined = none. */
  controlnets?: number | undefined;
  /** How many pictures each IP-Adapter sees; undefined = there is none. */
  imagePrompts?: readonly number[] | undefined;
  /** The result's size, if width and height are those of the tiles in which it is painted, and steps those of all tiles. */
  whole?: { width: number; height: number } | undefined;
}

/** Side of the automatic tiles for pictures that cannot be decoded whole, in pixels. */
export const AUTOMATIC_TILE = 512;

/** Side of the tiles that upscalers take: small enough for most devices, and large compared with the overlap of two tiles. */
export const UPSCALING_TILE = 256;

/** GPU memory to plan with. No browser reveals how much there is, so the person says, or it is guessed. */
export interface MemoryBudget {
  bytes: number;
  source: 'set' | 'guess';
}

/** Bytes on the device, by purpose. */
export interface MemoryEstimate {
  /** All networks of a run, which stay on the device so the next picture starts at once. */
  weights: number;
  /** The largest tensor, which briefly exists twice while it is loaded. */
  loading: number;
  /** Activations; null for ready-made ONNX files, whose layers are unknown. */
  activations: number | null;
  /** Latents, embeddings and pictures. */
  loop: number;
  /** The known peak. */
  peak: number;
}

/** Why something does not fit: a code and a whole sentence. */
export interface Misfit {
  code: ErrorCode;
  /** True if it only exceeds a guessed budget; false if it is impossible. */
  guessed: boolean;
  message: string;
}

export interface VariantEstimate {
  variant: WeightVariant;
  precision: Precision;
  memory: MemoryEstimate;
  /** The same by phase, in order. */
  phases: readonly PhaseEstimate[];
  /** Bytes of the largest tensor; it must fit in one buffer. */
  largestTensor: number;
  /** Excluding loading; null if nothing was measured on this device yet. */
  seconds: number | null;
  /** Where the rate comes from: pictures made here with such weights, or the short benchmark. */
  rate: 'pictures' | 'self-measurement' | null;
  /** Null = it fits. */
  misfit: Misfit | null;
  /** Whether this machine can compute it so: f16 needs a GPU with half precision. */
  runsHere: boolean;
  /** Present if it runs in blocks because it does not fit as a whole. */
  blocks?: BlockEstimate;
  /** Whether convolutions do without what would make them quicker, because their weights would take more memory than there is. */
  plainConvolutions?: boolean;
}

/** The phases of a run, in order. Each needs only its own networks. */
export type Phase = 'read' | 'sample' | 'decode';

/** What is on the device while a phase lasts, in bytes. All of it together is that phase's peak. */
export interface PhaseEstimate {
  /** Null where the networks of all phases stay there together. */
  phase: Phase | null;
  /** Weights that stay while it lasts. */
  staying: number;
  /** What weights that are streamed take at one time; 0 where none are. */
  slots: number;
  /** Latents, pictures and what layers hand each other, or what loading takes for a moment, whichever is more. */
  working: number;
  /** Weights that are brought to the device again at each run of their network; no part of the sum. */
  streamed: number;
}

/** Networks whose weights do not all stay on the device. */
export interface BlockEstimate {
  /** The most memory their weights take on the device, by name. */
  networks: Readonly<Record<string, number>>;
  /** Of those that run at each step: the weights that stay on the device, and those uploaded again at each run. */
  residentBytes: number;
  streamedBytes: number;
  /** How long uploading takes at each step, if computing hides none of it; and in total, with networks that run before and after. */
  secondsPerStep: number;
  seconds: number;
}

export interface Estimate {
  /** The request, with tiles of {@link AUTOMATIC_TILE} pixels if the picture can only be decoded that way. */
  request: EstimateRequest;
  /** Floating-point operations (a multiply-add counts as two); null if the networks' layers are unknown. */
  flops: { step: number; total: number } | null;
  /** The variants the checkpoint can run in, full precision as f32 and f16, in order of preference. */
  variants: VariantEstimate[];
  /** The first that runs here and fits; null if none does. */
  recommended: WeightVariant | null;
  /** For the recommended variant, or else the first that runs here. */
  seconds: number | null;
  rate: 'pictures' | 'self-measurement' | null;
  budget: MemoryBudget;
  /** Bytes to download before it can run; 0 if it is here. */
  downloadBytes: number;
  /** A smaller size at which some variant fits, if none does at this size. */
  smaller: { width: number; height: number } | null;
}

/** Embeddings on the engine's device. Batch row 0 is the negative prompt when `guided`. */
export interface Conditioning {
  /** Tokens of the prompt and the negative prompt, and the encoder's limit, each including begin and end tokens. */
  tokens: { prompt: number; negative: number; limit: number };
  /** What was encoded, as the tokenizer spells it after truncation; null without a negative prompt. */
  texts: { prompt: string; negative: string | null };
  /** Sentences on anything else to know about how the words were read. */
  notices?: readonly string[];
  dispose(): void;
}

/** Latents `[batch, channels, height/8, width/8]`, f32, on the engine's device, as the sampler leaves them (scaled). */
export interface Latents {
  readonly dims: readonly [number, number, number, number];
  /** Copies them to the CPU: the only read-back between the first step and the picture, and only if requested. */
  read(): Promise<Float32Array<ArrayBuffer>>;
  dispose(): void;
}

/** How a prompt is read: literally up to the encoder's limit, or in a tool's syntax at any length. */
export const PROMPT_SYNTAXES = ['literal', 'automatic1111', 'comfyui'] as const;
export type PromptSyntax = (typeof PROMPT_SYNTAXES)[number];

/** How much of a text encoder a prompt takes. */
export interface TokenCount {
  /** What people call the encoder, such as "CLIP". */
  encoder: string;
  /** Begin and end included. */
  tokens: number;
  /** What it reads at a time, begin and end included. */
  limit: number;
  /** How often it reads: more than once only in a tool's syntax, in which a prompt may have any length. */
  rows: number;
}

export interface TextRequest {
  prompt: string;
  negative_prompt: string;
  /** At 1 and below the negative prompt is not run, as in diffusers, unless the sampler reads it separately. */
  guidance_scale: number;
  /** Id of `src/samplers`; undefined = what the checkpoint asks. */
  sampler?: string | undefined;
  /** Undefined = `literal`. */
  prompt_syntax?: PromptSyntax | undefined;
  /** The text encoder's layer to read, counted from the last, 1; undefined = the one the checkpoint was trained with. */
  clip_skip?: number | undefined;
  /** The number of steps, at which a prompt may change; undefined = 1. */
  steps?: number | undefined;
  batch_size: number;
  /** Pictures that the prompt speaks of, for a text encoder that sees; others leave them alone. */
  images?: readonly PixelImage[] | undefined;
  /**
   * Whether the networks that encode, sample and decode are on the device one after another instead of together. It takes less memory, but
   * they are all loaded again for the next picture.
   */
  phased?: boolean | undefined;
}

/** What a picture is before sampling where a mask is white: the colours around it, or as latents noise or zeros. */
export type GroundRequest = {
  /** As {@link SampleRequest.mask}. */
  mask: PixelImage;
} & ({ content: 'around' } | { content: 'noise'; noise: NoiseSource } | { content: 'nothing' });

export interface ImageRequest {
  /** Target size in pixels; the picture is first scaled to it (Lanczos). */
  width: number;
  height: number;
  batch_size: number;
  /** Draws the sample of the encoder's posterior before the initial noise, from the same generator, as diffusers does. */
  random: NoiseSource;
  /** Side of the overlapping tiles to encode one by one, as for {@link DecodeRequest}; undefined = the picture as a whole. */
  tile_size?: number | undefined;
  /** Undefined = what the picture shows there. */
  ground?: GroundRequest | undefined;
}

/** The pictures that a video begins and ends with, of any size. */
export interface VideoEnds extends Omit<ImageRequest, 'ground'> {
  first: PixelImage | undefined;
  last: PixelImage | undefined;
}

/** What a ControlNet sees, and how much it counts. */
export interface ControlPicture {
  /** Any size; scaled to that of the result. */
  picture: PixelImage;
  /** What of it the ControlNet sees. */
  detector: Detector;
  /** What it shows, for a ControlNet for several kinds of pictures. */
  kind?: ControlKind | undefined;
  /** See `ControlNetUse.guess`. */
  guess?: boolean | undefined;
  weight: number;
  /** It counts in the steps between these shares of all that are run. */
  start: number;
  end: number;
}

/** What an IP-Adapter sees, and how much that counts. */
export interface ImagePrompt {
  /** Any sizes; the vision encoder sees the square in the middle. */
  pictures: readonly PixelImage[];
  weight: number;
}

export interface SampleRequest extends GuidanceRequest, ModelSamplingRequest {
  width: number;
  height: number;
  batch_size: number;
  steps: number;
  guidance_scale: number;
  /** Ids of `src/samplers` and `src/schedules`; undefined = what the checkpoint asks. */
  sampler?: string | undefined;
  schedule?: string | undefined;
  /** Whose formulas to follow; undefined = the checkpoint's own scheduler class if it knows the sampler, else whoever has it. */
  follows?: 'diffusers' | 'comfyui' | undefined;
  /** Overrides what the checkpoint says about itself; undefined = as it says. */
  prediction_type?: 'epsilon' | 'v_prediction' | undefined;
  rescale_betas_zero_snr?: boolean | undefined;
  /** Of a flow: the timesteps of the steps, from 1000 down; as many as `steps`. Undefined = the schedule places them. */
  timesteps?: readonly number[] | undefined;
  /** Of a flow: how far its levels are moved towards the noise, 1 = not at all; undefined = as the checkpoint or the node says. */
  shift?: number | undefined;
  strength: number;
  guidance_mode: 'auto' | 'batched' | 'serial';
  /** See {@link TextRequest.phased}. */
  phased?: boolean | undefined;
  random: NoiseSource;
  /** The picture to start from, as latents; undefined = start from noise. */
  start: Latents | undefined;
  /** White (255) = change, black = keep; any size, scaled to the latents. Needs `start`, or a checkpoint that `inpaints`. */
  mask: PixelImage | undefined;
  /** The picture under the mask, for a checkpoint that `inpaints`; any size. */
  picture?: PixelImage | undefined;
  /** See {@link ImageRequest}; of that picture. */
  tile_size?: number | undefined;
  /**
   * Whether grey in the mask changes less than white: what is darker is kept for more of the steps. Undefined = grey from the middle on is white,
   * the rest black.
   */
  soft_inpainting?: boolean | undefined;
  /** Stable Diffusion XL's size conditioning, in pixels; undefined = the size of the result, uncropped. */
  original_width?: number | undefined;
  original_height?: number | undefined;
  crop_top?: number | undefined;
  crop_left?: number | undefined;
  target_width?: number | undefined;
  target_height?: number | undefined;
  /** As many as there are ControlNets in use, in order; see `useAdditions`. */
  controls?: readonly ControlPicture[] | undefined;
  /** As many as there are IP-Adapters in use, in order. */
  imagePrompts?: readonly ImagePrompt[] | undefined;
  /** Reference pictures beside the prompt, in order; see {@link Model.encodeShown}. */
  shown?: readonly Latents[] | undefined;
  /** The frame that a video ends with, where it is shown by itself, see {@link Model.encodeEnds}; undefined = none is. */
  last?: Latents | undefined;
  /** Frames per second of a video, for a network that is told; undefined = as it was trained. */
  rate?: number | undefined;
  /**
   * Skip-layer guidance of Stable Diffusion 3: away from the prediction without these blocks, in the steps between `start` and `stop`,
   * given as shares of all steps. Needs guidance.
   */
  skip_guidance_layers?: readonly number[] | undefined;
  skip_layer_guidance_scale?: number | undefined;
  skip_layer_guidance_start?: number | undefined;
  skip_layer_guidance_stop?: number | undefined;
  /** Whether somebody is watching; if so, each StepReport can draw. */
  previews: boolean;
  signal: AbortSignal;
  /** Called once the networks are on the device and the first step begins; an earlier attempt finished `done` of the `steps`. */
  onStart(steps: number, done: number): void;
  onStep(step: StepReport): void | Promise<void>;
  /**
   * What an interrupted attempt passed to `keep`; null = start at the first step. Anything that does not belong to this model and request
   * counts as null.
   */
  resume: unknown;
  /** Receives what is needed to continue after the steps done so far; see {@link Context} in `chunk.ts`. */
  keep(state: unknown): void;
}

/** Called after each step: `step` of `steps` are done. `preview` draws the predicted picture without a read-back. */
export interface StepReport {
  step: number;
  steps: number;
  /** Null unless previews were asked for. */
  preview: ((canvas: OffscreenCanvas) => void) | null;
}

/** For a decoder that removes the last of the noise itself: how much it is told there is, and how much is added. */
export interface DecodingNoise {
  /** From 0, none, to 1. */
  timestep?: number | undefined;
  /** The share of fresh noise in what is decoded. */
  share?: number | undefined;
  /** Draws that noise, after all that sampling drew. */
  random: NoiseSource;
}

/** What is pasted over results. */
export interface OverlayRequest {
  /** Any size, scaled to the results' as for the checkpoint; its alpha is ignored. */
  picture: PixelImage;
  /** Any size: white keeps the results, black takes the picture, grey mixes. */
  mask: PixelImage;
  /** The results are this part of the picture and have its size once they are put there; mask and picture have one size then. Undefined = the whole of it. */
  region?: Region | undefined;
}

export interface DecodeRequest {
  /**
   * Side of the overlapping tiles to decode one by one and blend, like diffusers' `tiled_decode`: less memory, more time, and not exactly
   * the same picture. Undefined = decode whole.
   */
  tile_size?: number | undefined;
  /** See {@link TextRequest.phased}. */
  phased?: boolean | undefined;
  /** Frames of the video, if a latent stands for several; undefined = each latent is a picture. */
  frames?: number | undefined;
  /** For a decoder that takes noise; others ignore it. Undefined = as its authors use it, without any. */
  noise?: DecodingNoise | undefined;
  /** Undefined = leave the results as painted. */
  overlay?: OverlayRequest | undefined;
  signal: AbortSignal;
  /** Takes each picture as soon as it is decoded, so that they are never all held; none are returned then. */
  take?: ((picture: PixelImage) => Promise<void>) | undefined;
  /** Called after each picture or tile. */
  onPart: (done: number, parts: number) => void;
}

/** What every opened checkpoint offers. */
export interface OpenedCheckpoint {
  readonly summary: CheckpointSummary;
  /** Everything needed to make the same result again: files with their SHA-256, dtypes and, for pictures, the sampler and schedule used. */
  provenance(): Promise<Record<string, unknown>>;
}

export interface UpscaleRequest {
  /** Factor for width and height; undefined = the network's own. A smaller whole number scales its output down. */
  scale?: number | undefined;
  /** Side of the overlapping tiles to enlarge one by one and blend. */
  tile_size: number;
  signal: AbortSignal;
  /** Called after each tile. */
  onTile: (done: number, tiles: number) => void;
}

/** A network that enlarges pictures. */
export interface Upscaler extends OpenedCheckpoint {
  /**
   * Enlarges the alpha channel with the same network.
   * @throws StudioError `invalid_operation` for a scale that it cannot reach, `result_invalid` for NaN or infinity
   */
  upscale(image: PixelImage, request: UpscaleRequest): Promise<PixelImage>;
}

/** Enlarges the latents of videos between two passes. */
export interface LatentUpsampler extends OpenedCheckpoint {
  /**
   * @param latents [1, channels, frames · height, width] as the autoencoder has them, see {@link LatentScales}
   * @returns the same with twice the height and width
   * @throws StudioError `checkpoint_unsupported` for another number of channels, `result_invalid` for NaN or infinity, `cancelled`
   */
  upsample(latents: CpuTensor, frames: number, signal: AbortSignal): Promise<CpuTensor>;
}

/** What latents as sampling has them are multiplied by, and what is added, to be those of the autoencoder; by channel. */
export interface LatentScales {
  mean: Float32Array;
  deviation: Float32Array;
}

export interface Model extends OpenedCheckpoint {
  /** Counts tokens without reading any weights, for each encoder; absent where nothing is known of that. */
  countTokens?(prompt: string, syntax: PromptSyntax): TokenCount[];
  encodeText(request: TextRequest): Promise<Conditioning>;
  encodeImage(image: PixelImage, request: ImageRequest): Promise<Latents>;
  /**
   * Encodes a picture for {@link SampleRequest.shown} at the size the network takes; absent if it takes none.
   * @param together how many are shown, 1 by default, which the size may depend on
   * @param result size of what is made, in pixels, which it may be, too
   */
  encodeShown?(image: PixelImage, together?: number, result?: { width: number; height: number }): Promise<Latents>;
  /** What sampling is shown of a video's first and last picture; absent if it makes no videos that begin or end with one. */
  encodeEnds?(ends: VideoEnds): Promise<Pick<SampleRequest, 'shown' | 'last'>>;
  /** Latents from the CPU, as {@link Latents.read} gave them or changed since; absent if it samples only what it encoded itself. */
  latentsFrom?(tensor: CpuTensor): Latents;
  /** Of a video's latents that another network can enlarge; absent if none can. */
  latentScales?(): Promise<LatentScales>;
  sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents>;
  /** What draws a batch's first picture as the quick autoencoder of the operation sees it; null if it names none. Throws like {@link decode}. */
  firstLook?(latents: Latents): Promise<((canvas: OffscreenCanvas) => void) | null>;
  /** @throws StudioError `result_invalid` if latents or pictures contain NaN or infinity, or nothing but zeros */
  decode(latents: Latents, request: DecodeRequest): Promise<PixelImage[]>;
}
