/** What chunks know of a checkpoint that makes music from words and lyrics: its services in addition to those of `model.ts`. */
import type { Sound } from './media.ts';
import type { Conditioning, Latents, OpenedCheckpoint, SampleRequest } from './model.ts';
import type { NoiseSource } from './noise.ts';
import type { SoundForm } from './sound_model.ts';

/**
 * What is done with a given sound:
 * - `text2music`: nothing, the words say everything;
 * - `repaint`: one part is made anew, fitting what surrounds it;
 * - `cover`: all of it is made in another style.
 */
export const MUSIC_TASKS = ['text2music', 'repaint', 'cover'] as const;
export type MusicTask = (typeof MUSIC_TASKS)[number];

/** Latents along time, one after another: [length, channels]. */
export interface SoundLatents {
  length: number;
  values: Float32Array<ArrayBuffer>;
}

export interface MusicTextRequest {
  prompt: string;
  /** Empty = none. */
  lyrics: string;
  /** Code of the lyrics' language, such as "en". */
  vocal_language: string;
  /** Beats per minute; undefined = the model's choice, as for the key and the beats of a bar. */
  bpm?: number | undefined;
  keyscale?: string | undefined;
  timesignature?: string | undefined;
  /** How long the whole is. */
  seconds: number;
  task: MusicTask;
  /** How far a cover follows the sound, 1 = all the way. */
  cover_strength: number;
  /** Guidance of 1 and below runs the transformer for the words alone, as does a distilled checkpoint whatever the guidance is. */
  guidance_scale: number;
  /** What the voices and instruments sound like; undefined = as the words say. */
  timbre: SoundLatents | undefined;
}

export interface MusicConditioning extends Conditioning {
  /** Tokens of the lyrics with their language, and how many are read. */
  readonly lyrics: { tokens: number; limit: number };
}

export type MusicSampleRequest = Pick<
  SampleRequest,
  'batch_size' | 'steps' | 'guidance_scale' | 'random' | 'signal' | 'resume' | 'keep' | 'onStart' | 'onStep'
> & {
  /** How far the noise levels are moved towards the noise, 1 = not at all. */
  shift: number;
  seconds: number;
  task: MusicTask;
  cover_strength: number;
  /** The given sound; it is there exactly where the task wants one. */
  source: SoundLatents | undefined;
  /** The part that is made anew, in seconds; undefined = from the beginning, and to the end. */
  repaint_start?: number | undefined;
  repaint_end?: number | undefined;
};

interface EncodeRequest {
  /** Draws the sample of the encoder's posterior. */
  random: NoiseSource;
  signal: AbortSignal;
}

export interface MusicModel extends OpenedCheckpoint {
  readonly form: SoundForm;
  /** What it can make of a given sound. */
  readonly tasks: readonly MusicTask[];
  /** @param sound at the model's rate @throws StudioError `invalid_operation` for one that is too short to be encoded */
  encodeSound(sound: Sound, request: EncodeRequest): Promise<SoundLatents>;
  /** The same of half a minute of it: its beginning, middle and end. */
  encodeTimbre(sound: Sound, request: EncodeRequest): Promise<SoundLatents>;
  encodeText(request: MusicTextRequest): Promise<MusicConditioning>;
  /** @returns latents [batch, channels, 1, length] */
  sample(conditioning: MusicConditioning, request: MusicSampleRequest): Promise<Latents>;
  /** Songs of one loudness. @throws StudioError `result_invalid` where a sound holds NaN or infinity, or nothing but zeros */
  decode(
    latents: Latents,
    request: { signal: AbortSignal; onPart: (done: number, parts: number) => void },
  ): Promise<Sound[]>;
}
