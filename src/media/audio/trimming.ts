/** A part of a sound. */
import type { Sound } from '../../core/media.ts';
import { writeFloatWav } from './wav.ts';

/** In seconds from the beginning. */
export interface Part {
  start: number;
  end: number;
}

/** @returns the samples from the start to the end, at least one, as WAV without loss */
export function trimmed({ rate, channels }: Sound, { start, end }: Part): Blob {
  const frames = channels[0].length;
  const first = Math.min(Math.max(0, frames - 1), Math.max(0, Math.round(start * rate)));
  const last = Math.min(frames, Math.max(first + 1, Math.round(end * rate)));
  return writeFloatWav({ rate, channels: channels.map((plane) => plane.slice(first, last)) });
}
