/** What a flow transformer needs from its networks. All tensors are float32 on the engine's device and owned by the receiver. */
import type { GuidanceMethod } from '../../core/guidance.ts';
import type { PixelImage } from '../../core/media.ts';
import type { TokenCount } from '../../core/model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { CommonNetworks, Denoiser, EncodedPicture, LatentSize } from '../latent_diffusion/networks.ts';

/** A prompt's encodings. */
export interface EncodedText {
  /** By the family's own names. */
  tensors: Readonly<Record<string, DeviceTensor>>;
  /** Tokens of the whole prompt in its template, and the limit. */
  tokens: number;
  limit: number;
  /** What was read of the prompt. */
  text: string;
  /** See `Conditioning.notices`. */
  notices?: readonly string[];
}

export interface FlowDenoiserRequest extends LatentSize {
  /** The negative prompt, if there is guidance, and the prompt; they outlive the denoiser. */
  texts: readonly EncodedText[];
  /** Frames of a video, or layers of a picture, which lie below each other: the height is that of all. */
  frames?: number | undefined;
  /** Frames per second; undefined = as the network was trained. */
  rate?: number | undefined;
  /** Reference pictures as latents [1, channels, h, w] each; they outlive the denoiser. */
  shown: readonly DeviceTensor[];
  /** The guidance scale, for a network that takes it as an input, or a denoiser that guides by itself. */
  guidance: number;
  /** The frame that a video ends with, like those that are shown. */
  last?: DeviceTensor | undefined;
  /** Draws what is drawn in each step, where anything is. */
  random: NoiseSource;
  /** Whether it guides by itself, token by token: of the predictions for both texts it makes one. Only of families that usually do. */
  mixes?: boolean | undefined;
  /** Blocks to leave out for the last of the texts, if any. */
  skipped?: readonly number[] | undefined;
}

export interface FlowDenoiser extends Omit<Denoiser, 'predict'> {
  /**
   * @param texts predict only for this many, from the first; absent = all
   * @param next timestep that the sampler goes on to, 0 at the end, for networks that are told
   */
  predict(sample: DeviceTensor, timestep: number, texts?: number, next?: number): Promise<DeviceTensor[]>;
}

/** What a text encoder sees of pictures. */
export interface SeenPicture {
  /** [rows · columns, width of a token]; owned by the receiver. */
  features: DeviceTensor;
  /** In tokens. */
  rows: number;
  columns: number;
}

/** How a family looks at the pictures that it works from. */
export interface Sight {
  /** For the text encoder. @throws StudioError `invalid_operation` for pictures that it cannot see */
  see(images: readonly PixelImage[]): Promise<SeenPicture[]>;
  /** The size that the denoiser is shown a picture at. @throws StudioError `invalid_operation` for one that it cannot be shown */
  sized(image: PixelImage): PixelImage;
  /** Latents of a picture that is shown, of which nothing is drawn. @param pixels [1, 3, H, W] in [-1, 1] */
  encode(pixels: DeviceTensor): Promise<EncodedPicture>;
}

export interface FlowNetworks extends CommonNetworks {
  readonly shelf: Pick<NetworkShelf, 'names' | 'onLoading' | 'blockBytes' | 'plainConvolutions' | 'signal' | 'get'>;
  /** Absent where the text encoder sees no pictures. */
  readonly sight?: Sight;
  /**
   * The size that the denoiser is shown a picture at, which {@link sight} decides where there is one; absent = up to a million pixels, cropped
   * to whole tokens.
   * @param together how many are shown
   * @param result size of what is made, in pixels; undefined = unknown
   * @throws StudioError `invalid_operation` for one that it cannot be shown
   */
  sizedToShow?(image: PixelImage, together: number, result?: { width: number; height: number }): PixelImage;
  /** Whether the denoiser is always shown a picture, so that its shape is not known before one is given; absent = it is not. */
  readonly needsPicture?: boolean;
  /** How the family guides where nothing else is asked for; absent = `cfg`. */
  readonly usualGuidance?: GuidanceMethod;
  /** Of each text encoder; absent where it depends on more than the words. */
  countTokens?(prompt: string): TokenCount[];
  /** @param seen by {@link sight} */
  encodeText(prompt: string, seen?: readonly SeenPicture[]): Promise<EncodedText>;
  /** For one picture at a time: {@link Denoiser.predict} takes [1, channels, height, width] and returns a prediction per text. */
  denoiser(request: FlowDenoiserRequest): Promise<FlowDenoiser>;
  /** Additions to the scheduler's config for pictures of this size. @param size where frames lie below each other, of all and how many they are */
  course(size: LatentSize & { frames?: number | undefined }): Omit<FlowCourse, 'steps'>;
  /** The g of u + g·(c − u) for a guidance scale of this family. */
  guidance(scale: number): number;
}
