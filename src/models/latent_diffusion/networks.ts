/**
 * What a latent diffusion model asks of its networks, wherever they come from: graphs of our own over a diffusers folder, or
 * ready-made ONNX files. All tensors are float32 on the engine's device; whoever is given one has to dispose it, unless it says
 * otherwise.
 */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { ModelLora } from '../family.ts';
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
  /** What latents are multiplied with after the encoder, and divided by before the decoder. */
  scale: number;
  /** What is taken from them before that, and added after it; 0 where nothing is said. */
  shift?: number;
}

/** What the encoder makes of a picture, not yet scaled. */
export interface EncodedPicture {
  /** `moments` [1, 2·channels, h, w] are mean ‖ log variance of a Gaussian to be sampled, `latents` are [1, channels, h, w]. */
  kind: 'moments' | 'latents';
  tensor: DeviceTensor;
}

/** What a text encoder makes of a text, or several of them together. */
export interface EncodedText {
  /** [1, tokens, width]. */
  states: DeviceTensor;
  /** The text as a whole, [1, width]; null where the denoiser takes none. */
  pooled: DeviceTensor | null;
}

/** What a denoiser is told beside the text and the time. */
export interface Conditions {
  /** The text as a whole, and sizes. */
  pooled: boolean;
  /** The mask, and what stays of the picture. */
  mask: boolean;
}

/** What Stable Diffusion XL is told of the sizes of the pictures that it was trained on; in pixels. */
export interface Sizes {
  original: readonly [height: number, width: number];
  /** Of the picture within the original. */
  corner: readonly [top: number, left: number];
  target: readonly [height: number, width: number];
}

export interface DenoiserRequest extends LatentSize {
  /** Rows of each call of {@link Denoiser.predict}. */
  batch: number;
  /** One or more [batch, tokens, width]: what the rows are conditioned on. They outlive the denoiser. */
  embeddings: DeviceTensor[];
  /** Where {@link Conditions.pooled}: of each of the embeddings, [batch, width]. They outlive the denoiser. */
  pooled?: DeviceTensor[];
  sizes?: Sizes;
  /** Where {@link Conditions.mask}: 1 where the picture is painted, then what stays of it as latents, [batch, 1 + channels, h, w]. */
  masked?: DeviceTensor;
  /** The guidance scale, for a network that takes it as an input. */
  guidance: number;
}

/** The denoising network, ready for one sampling. */
export interface Denoiser {
  /**
   * @param sample [batch, channels, height, width], scaled as the sampler asks
   * @returns the prediction for each of the embeddings, shaped like the sample; the denoiser's own, and overwritten by the next call
   */
  predict(sample: DeviceTensor, timestep: number): Promise<DeviceTensor[]>;
  dispose(): void;
}

/** The decoder, ready for latents of one size. */
export interface Decoder {
  /**
   * @param latents [1, channels, height, width], scaled as the sampler leaves them
   * @returns [1, 3, factor·height, factor·width] around [-1, 1]; the decoder's own, and overwritten by the next call
   */
  decode(latents: DeviceTensor): Promise<DeviceTensor>;
  dispose(): Promise<void>;
}

export interface Networks {
  readonly latents: LatentSpace;
  readonly conditions: Conditions;
  /** Guidance above this runs the denoiser for a negative prompt, too; 1 where nothing is said. */
  readonly leastGuidance?: number;
  /** What is on the device, by the names that {@link planned} gives; it tells who listens while weights are being brought there. */
  readonly shelf: Pick<NetworkShelf, 'names' | 'onLoading'>;

  /** @param ids of each of its tokenizers, as many */
  encodeText(ids: readonly Int32Array<ArrayBuffer>[]): Promise<EncodedText>;
  /** @param pixels [1, 3, H, W] in [-1, 1] */
  encodeImage(pixels: DeviceTensor): Promise<EncodedPicture>;
  denoiser(request: DenoiserRequest): Promise<Denoiser>;
  /** @param purpose the decoder of a preview leaves the device again with its disposal */
  decoder(size: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder>;

  /** Whether the denoiser takes the guidance scale as an input and is not run for a negative prompt. */
  embedsGuidance(): Promise<boolean>;
  /** Whether guidance is better run as one batch of `rows` latents than as two of half as many. */
  batchesGuidance(rows: number, size: LatentSize): Promise<boolean>;
  /** Latents per side of the picture that preview colours are fitted on; null where none can be decoded. */
  previewSize(): Promise<number | null>;

  /** What a run would ask of each network; loads none. */
  planned(request: NetworkRequest): Promise<PlannedNetwork[]>;

  /**
   * Merges these, and no others, into the weights from now on. Networks that have them otherwise leave the device.
   * @returns what of them is left out, a sentence each
   */
  useLoras(loras: readonly ModelLora[]): Promise<string[]>;
  /** What {@link useLoras} would say of this one, or throw; changes nothing. */
  checkLora(lora: ModelLora): Promise<string | null>;
  /** Paths of the weight files, and what is needed to compute the same numbers again. */
  provenance(): Promise<{ files: string[]; facts: Record<string, unknown> }>;
  /** Frees all that is held on the device. */
  clear(): Promise<void>;
}

/** What does not depend on how the denoiser is given its text. */
export type CommonNetworks = Omit<Networks, 'encodeText' | 'denoiser' | 'conditions'>;
