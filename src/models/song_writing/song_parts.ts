/**
 * The parts that HeartCodec makes of a song: each has 29.76 seconds and begins before the one before ends.
 * Reference: `detokenize` of heartlib/heartcodec/modeling_heartcodec.py
 */
import type { WrittenSong } from '../../core/song_model.ts';
import { FRAMES_PER_SECOND, LATENTS_PER_SECOND } from '../../graphs/heart_codec.ts';

/** The reference's default. */
const PART_SECONDS = 29.76;

const apart = (length: number) => Math.floor(length / 93) * 80;

/** Frames of a part, and from the beginning of one to that of the next. */
export const PART = Math.trunc(PART_SECONDS * FRAMES_PER_SECOND);
const HOP = apart(PART);
const OVERLAP = PART - HOP;
export const LATENTS = Math.trunc(PART_SECONDS * LATENTS_PER_SECOND);
/** Latents known of a part from the one before. */
export const KNOWN = 2 * OVERLAP;

/** In samples. */
export interface PartLengths {
  part: number;
  /** From the beginning of one to that of the next. */
  hop: number;
  overlap: number;
}

/** @param rate samples per second */
export function partLengths(rate: number): PartLengths {
  const part = Math.trunc(PART_SECONDS * rate);
  const hop = apart(part);
  return { part, hop, overlap: part - hop };
}

/** How many parts the codec makes of so many frames. */
export function partsOf(frames: number): number {
  return Math.floor((filled(frames) - HOP) / HOP) + 1;
}

/** How many of them hold no frame but those, so that nothing written later changes them. */
export function settledParts(frames: number): number {
  return Math.max(0, Math.floor((frames - PART) / HOP) + 1);
}

/** Samples of a song of so many frames. Where frames end exactly with an overlap the reference leaves out what follows it, and so do we. */
export function samplesOf(frames: number, rate: number): number {
  const { part, hop } = partLengths(rate);
  const made = (partsOf(frames) - 1) * hop + part;
  return Math.min(Math.trunc((frames / FRAMES_PER_SECOND) * rate), made);
}

export function framesOf({ codes, values }: WrittenSong): number {
  return values.length / codes;
}

/** The codes of a part; behind its end the song begins again. */
export function codesOf(song: WrittenSong, index: number): Int32Array {
  const { codes, values } = song;
  const frames = framesOf(song);
  const once = Math.max(frames, PART);
  const part = new Int32Array(PART * codes);
  for (let frame = 0; frame < PART; frame++) {
    const at = ((index * HOP + frame) % once) % frames;
    part.set(values.subarray(at * codes, (at + 1) * codes), frame * codes);
  }
  return part;
}

/** Frames with those that fill up the last part. */
function filled(frames: number): number {
  const least = Math.max(frames, PART);
  return (least - KNOWN) % HOP > 0 ? Math.ceil((least - OVERLAP) / HOP) * HOP + OVERLAP : least;
}
