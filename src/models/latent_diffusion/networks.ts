/**
 * What a latent diffusion model needs from its networks, whether they are our own graphs over a diffusers folder or ready-made ONNX files.
 * All tensors are float32 on the engine's device and owned by the receiver unless stated otherwise.
 */
import type { CheckedAddition } from '../../core/additions.ts';
import type { ControlKind } from '../../core/controlnets.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { PixelImage } from '../../core/media.ts';
import type { ModelAddition, ModelAdditions, ModelLora } from '../family.ts';
import type { NetworkRequest, PlannedNetwork } from './estimate.ts';

export interface LatentSize {
  /** In latents. */
  height: number;
  width: number;
}

export interface LatentSpace {
  channels: number;
  /** Pixels per latent along one side. */
  factor: number;
  /** Latents are multiplied by this after the encoder, and divided by it before the decoder. */
  scale: number;
  /** Subtracted before that, and added afterwards; 0 by default. */
  shift?: number;
  /** Whether its pictures are transparent, with a fourth channel that says how opaque they are; absent = they are not. */
  isTransparent?: boolean;
}

/** Channels of the pictures that are encoded and decoded. */
export const picturePlanes = ({ isTransparent }: LatentSpace): 3 | 4 => (isTransparent ? 4 : 3);

/** The encoder's output, not yet scaled. */
export interface EncodedPicture {
  /** `moments` [1, 2·channels, h, w] are mean ‖ log variance of a Gaussian to be sampled, `latents` are [1, channels, h, w]. */
  kind: 'moments' | 'latents';
  tensor: DeviceTensor;
}

/** Options for the text encoders. */
export interface ReadingOptions {
  /** The layer to read, counted from the last, 1; undefined = the one the checkpoint was trained with. */
  skip?: number | undefined;
  /** Vectors that replace tokens, per encoder. */
  vectors?: readonly (readonly PlacedVector[])[];
}

/** Vectors that stand for a name, equally many for each text encoder. */
export interface NamedEmbedding {
  name: string;
  vectors: readonly (readonly Float32Array<ArrayBuffer>[])[];
}

export interface PlacedVector {
  /** Index of the token. */
  at: number;
  values: Float32Array<ArrayBuffer>;
}

/** A text's encoding by one or several text encoders. */
export interface EncodedText {
  /** [1, tokens, width]. */
  states: DeviceTensor;
  /** The pooled text, [1, width]; null if the denoiser takes none. */
  pooled: DeviceTensor | null;
}

/** What a denoiser is conditioned on besides text and time. */
export interface Conditions {
  /** The pooled text and sizes. */
  pooled: boolean;
  /** The mask, and the picture outside it. */
  mask: boolean;
  /** Whether what is in one batch are the frames of one video; absent = they are pictures of their own. */
  motion?: boolean;
}

/** Stable Diffusion XL's size conditioning, in pixels. */
export interface Sizes {
  original: readonly [height: number, width: number];
  /** The crop's position within the original. */
  corner: readonly [top: number, left: number];
  target: readonly [height: number, width: number];
}

export interface DenoiserRequest extends LatentSize {
  /** Rows of each call of {@link Denoiser.predict}. */
  batch: number;
  /** One or more [batch, tokens, width] that condition the rows. They outlive the denoiser. */
  embeddings: DeviceTensor[];
  /** If {@link Conditions.pooled}: one per embedding, [batch, width]. They outlive the denoiser. */
  pooled?: DeviceTensor[];
  sizes?: Sizes;
  /** If {@link Conditions.mask}: 1 where the picture is painted, then the rest of it as latents, [batch, 1 + channels, h, w]. */
  masked?: DeviceTensor;
  /** The guidance scale, for a network that takes it as an input. */
  guidance: number;
  /** One for each ControlNet in use, in order; absent = none leads. */
  controls?: readonly ControlRequest[] | undefined;
  /** What the equally many parts of each embedding's rows are for; wanted where there are image prompts. */
  sides?: readonly (readonly Side[])[];
  /** One for each IP-Adapter in use, in order; absent = there is none. */
  imagePrompts?: readonly ImagePromptRequest[] | undefined;
}

/** Whether a row is for the prompt or for what guidance goes away from. */
export type Side = 'positive' | 'negative';

/** What the vision encoder gave for the pictures of one IP-Adapter, [pictures, …], and for none. They outlive the denoiser. */
export interface SeenPictures {
  positive: DeviceTensor;
  /** Null without guidance. */
  negative: DeviceTensor | null;
}

export interface ImagePromptRequest {
  seen: SeenPictures;
  weight: number;
}

/** What leads the denoiser. */
export interface ControlRequest {
  /** The control picture [1, 3, H, W] in [0, 1]; it outlives the denoiser. */
  picture: DeviceTensor;
  /** What it shows, for a ControlNet for several kinds. */
  kind?: ControlKind | undefined;
  /** See `ControlNetUse.guess`. */
  guess?: boolean | undefined;
  /** By the number of the denoiser's call: factor of what is added, 0 where nothing is. */
  weights: readonly number[];
}

/** The denoising network, ready for one sampling. */
export interface Denoiser {
  /**
   * @param sample [batch, channels, height, width], scaled for the network
   * @param which indices of embeddings; undefined = all
   * @param call which call it is, from 0, for {@link ControlRequest.weights}
   * @returns a prediction for each, shaped like the sample; owned by the denoiser and overwritten by the next call
   */
  predict(sample: DeviceTensor, timestep: number, which?: readonly number[], call?: number): Promise<DeviceTensor[]>;
  dispose(): void;
}

/** The decoder, ready for latents of one size. */
export interface Decoder {
  /**
   * @param latents [1, channels, height, width], scaled as the sampler leaves them
   * @returns [1, 3 or 4, factor·height, factor·width] around [-1, 1]; owned by the decoder and overwritten by the next call
   */
  decode(latents: DeviceTensor): Promise<DeviceTensor>;
  dispose(): Promise<void>;
}

export interface Networks {
  readonly latents: LatentSpace;
  readonly conditions: Conditions;
  /** Guidance above this also runs the denoiser for a negative prompt; 1 by default. */
  readonly leastGuidance?: number;
  /** The networks on the device, by the names in {@link planned}; reports while weights are loaded. */
  readonly shelf: Pick<NetworkShelf, 'names' | 'onLoading' | 'plainConvolutions'>;

  /** Embeddings in use, by their names in prompts. */
  readonly embeddings: readonly NamedEmbedding[];
  /** Widths of the concatenated states of several text encoders; null if there is only one. */
  readonly textWidths: readonly number[] | null;
  /**
   * @param ids from each of its tokenizers, equally many
   * @throws StudioError `checkpoint_unsupported` for options these networks do not support
   */
  encodeText(ids: readonly Int32Array<ArrayBuffer>[], options?: ReadingOptions): Promise<EncodedText>;
  /** @param pixels [1, 3, H, W] in [-1, 1] */
  encodeImage(pixels: DeviceTensor): Promise<EncodedPicture>;
  /**
   * @param pictures for each IP-Adapter in use
   * @param guided whether there is a negative prompt
   * @param hold gives tensors that outlive the denoiser
   */
  seePictures?(
    pictures: readonly (readonly PixelImage[])[],
    guided: boolean,
    hold: (dims: readonly number[]) => DeviceTensor,
  ): Promise<SeenPictures[]>;
  denoiser(request: DenoiserRequest): Promise<Denoiser>;
  /** @param purpose a preview's decoder is freed when disposed */
  decoder(size: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder>;
  /** That of a quick autoencoder beside the one in use, freed when disposed; null where an operation names none. Absent where none can be named. */
  firstDecoder?(size: LatentSize): Promise<Decoder> | null;

  /** Whether the denoiser takes the guidance scale as an input instead of running for a negative prompt. */
  embedsGuidance(): Promise<boolean>;
  /** Whether guidance should run as one batch of `rows` latents rather than two of half as many. */
  batchesGuidance(rows: number, size: LatentSize): Promise<boolean>;
  /** Latents per side of the picture for fitting preview colours; null if none can be decoded. */
  previewSize(): Promise<number | null>;

  /** What a run would need from each network; loads none. */
  planned(request: NetworkRequest): Promise<PlannedNetwork[]>;

  /**
   * Merges exactly these into the weights from now on, freeing networks whose weights change.
   * @returns a sentence for each of which something is left out
   */
  useLoras(loras: readonly ModelLora[]): Promise<string[]>;
  /**
   * Merges what counts at one call of the denoiser, where LoRAs count in a part of them; absent where none can.
   * @param call from 0, of `calls`
   * @returns whether the denoiser is to be asked for anew
   */
  moveLoras?(call: number, calls: number): Promise<boolean>;
  /** What {@link useLoras} would return or throw for this one; changes nothing. */
  checkLora(lora: ModelLora): Promise<string | null>;
  /**
   * Takes these, and no others, from now on; absent where it takes none.
   * @returns whether another autoencoder than before decodes
   */
  useAdditions?(additions: Partial<ModelAdditions>): Promise<boolean>;
  /** What {@link useAdditions} would throw; changes nothing. */
  checkAddition?(kind: CheckedAddition, addition: ModelAddition): Promise<void>;
  /** Paths of the weight files, and facts needed to reproduce the same numbers. */
  provenance(): Promise<{ files: string[]; facts: Record<string, unknown> }>;
  /** Frees all memory on the device. */
  clear(): Promise<void>;
}

/** The parts independent of how the denoiser gets its text. */
export type CommonNetworks = Omit<Networks, 'encodeText' | 'embeddings' | 'textWidths' | 'denoiser' | 'conditions'>;
