/** The services of a checkpoint that writes songs frame by frame, as a language model writes words: what chunks know of it. */
import type { Sound } from './media.ts';
import type { OpenedCheckpoint } from './model.ts';
import type { SoundForm } from './sound_model.ts';

/** A song in the model's own signs: frames one after another, of `codes` numbers each. */
export interface WrittenSong {
  codes: number;
  values: Int32Array<ArrayBuffer>;
}

export interface SongWriteRequest {
  /** Empty = none. */
  lyrics: string;
  tags: string;
  /** The song is at most a frame longer, and shorter where the model ends it. */
  seconds: number;
  /** How far it is led away from no words at all; 1 = not. */
  guidance_scale: number;
  temperature: number;
  /** How many of the likeliest codes one is drawn from. */
  top_k: number;
  /** As in operations. */
  seed: string;
  /** Whether other networks leave the device for those that write. */
  phased?: boolean | undefined;
  signal: AbortSignal;
  /** What `keep` was given in an attempt that was broken off; foreign until it is read. */
  resume: unknown;
  keep: (state: unknown) => void;
  onRead: (done: number, tokens: number) => void;
  /** After each frame, which the next one waits for. @param written the song until there */
  onFrame: (done: number, most: number, written: WrittenSong) => Promise<void> | void;
}

export interface SongDecodeRequest {
  seed: string;
  /** Of the flow that makes latents of the codes. */
  steps: number;
  phased?: boolean | undefined;
  signal: AbortSignal;
  /** After each piece, with all that is finished of the song. While it is written, there are more parts than are told. */
  onPart: (done: number, parts: number, finished: () => Sound) => void;
  /** Each sample once and in order, as soon as nothing changes it any more. @param from samples before these */
  onSound?: (from: number, sound: Sound) => void;
}

/** A song that becomes sound. */
export interface SongPlaying {
  /**
   * Decodes what nothing that is still to be written changes; nothing where networks take turns on the device.
   * @param song as far as it is written
   */
  advance(song: WrittenSong): Promise<void>;
  /** Decodes the rest. @throws StudioError `result_invalid` where the sound holds NaN or infinity, or nothing but zeros */
  finish(song: WrittenSong): Promise<Sound>;
}

export interface SongModel extends OpenedCheckpoint {
  readonly form: SoundForm;
  /** Frames of a second. */
  readonly framesPerSecond: number;
  /** @throws StudioError `invalid_operation` for words and seconds that are together longer than the model remembers */
  write(request: SongWriteRequest): Promise<WrittenSong>;
  /** Both its ways throw `result_invalid` for a code that is none of the codec's. */
  play(request: SongDecodeRequest): SongPlaying;
}
