/** What chunks know of a checkpoint that makes sounds by diffusion: its services in addition to those of `model.ts`. */
import type { Sound } from './media.ts';
import type { Conditioning, Latents, OpenedCheckpoint, SampleRequest } from './model.ts';

/** What its sounds are like. */
export interface SoundForm {
  /** Samples per second. */
  rate: number;
  channels: number;
  /** The longest that it makes. */
  seconds: number;
}

export interface SoundTextRequest {
  prompt: string;
  /** Undefined = guidance leads away from nothing at all, and not from words. */
  negative_prompt?: string | undefined;
  /** Guidance of 1 and below runs the transformer for the prompt alone. */
  guidance_scale: number;
  /** Where the sound begins within the piece that is imagined, and where it ends. */
  from: number;
  until: number;
}

export type SoundSampleRequest = Pick<
  SampleRequest,
  | 'batch_size'
  | 'steps'
  | 'guidance_scale'
  | 'strength'
  | 'random'
  | 'signal'
  | 'resume'
  | 'keep'
  | 'onStart'
  | 'onStep'
> & {
  /** The sound to start from, at the model's rate; undefined = noise alone. */
  start: Sound | undefined;
  /** How long the sound is; counts where the model makes no more than that. */
  until: number;
  /**
   * The part of the sound to start from that is made anew, in seconds; all else stays, and the strength does not count. Undefined = the whole of it
   * changes, as with models that cannot keep any of it.
   */
  anew?: { from: number; until: number } | undefined;
};

export interface SoundDecodeRequest {
  /** What of the latents is wanted, in seconds. */
  from: number;
  until: number;
  signal: AbortSignal;
  /** After each piece. */
  onPart: (done: number, parts: number) => void;
}

export interface SoundModel extends OpenedCheckpoint {
  readonly form: SoundForm;
  encodeText(request: SoundTextRequest): Promise<Conditioning>;
  /**
   * @returns latents [batch, channels, 1, length], of the model's whole length where it always makes that, whatever is wanted of it
   * @throws StudioError `invalid_operation` for a part that is too short to be made anew
   */
  sample(conditioning: Conditioning, request: SoundSampleRequest): Promise<Latents>;
  /** @throws StudioError `result_invalid` where a sound holds NaN or infinity, or nothing but zeros */
  decode(latents: Latents, request: SoundDecodeRequest): Promise<Sound[]>;
}
