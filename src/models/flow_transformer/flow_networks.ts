/** What a flow transformer asks of its networks. All tensors are float32 on the engine's device; whoever is given one has to dispose it. */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { CommonNetworks, Denoiser, LatentSize } from '../latent_diffusion/networks.ts';

/** What the text encoders make of a prompt. */
export interface EncodedText {
  /** By the family's own names. */
  tensors: Readonly<Record<string, DeviceTensor>>;
  /** Tokens of the whole prompt in its template, and the most that are read. */
  tokens: number;
  limit: number;
  /** What was read of the prompt. */
  text: string;
}

export interface FlowDenoiserRequest extends LatentSize {
  /** The negative prompt, where there is guidance, and the prompt; they outlive the denoiser. */
  texts: readonly EncodedText[];
  /** Pictures that the network is shown, as latents [1, channels, h, w] each; they outlive the denoiser. */
  shown: readonly DeviceTensor[];
}

export interface FlowNetworks extends CommonNetworks {
  encodeText(prompt: string): Promise<EncodedText>;
  /** For one picture at a time: {@link Denoiser.predict} takes [1, channels, height, width] and gives a prediction for each of the texts. */
  denoiser(request: FlowDenoiserRequest): Promise<Denoiser>;
  /** What pictures of this size add to the scheduler's config. */
  course(size: LatentSize): Omit<FlowCourse, 'steps'>;
  /** The g of u + g·(c − u) for a guidance scale of this family. */
  guidance(scale: number): number;
}
