/** Which tones a sound has, over its time. */
import type { Sound } from '../../core/media.ts';
import { Fourier } from './fourier.ts';

/** Seconds of a piece: long enough for low tones, short enough for beats. */
const PIECE = 0.046;
/** Hertz of the lowest row, if the pieces are long enough. */
const LOWEST = 40;
/** How many pieces a column averages at most: a long sound is sampled, not read whole. */
const MOST_PIECES = 4;
/** Decibels below full scale that are drawn as silence. */
const DEPTH = 90;

export interface Spectrogram {
  columns: number;
  rows: number;
  /** From 0, silence, to 255, a tone of full scale; row by row, high tones first. */
  levels: Uint8ClampedArray<ArrayBuffer>;
  /** Hertz of the lowest row and of the highest; between them rows are an equal ratio apart. */
  lowest: number;
  highest: number;
}

export function spectrogramOf({ rate, channels }: Sound, columns: number, rows: number): Spectrogram {
  const frames = channels[0].length;
  const mono = new Float32Array(frames);
  for (const plane of channels) {
    plane.forEach((sample, i) => (mono[i] += sample / channels.length));
  }
  const fourier = new Fourier(2 ** Math.min(13, Math.max(5, Math.round(Math.log2(rate * PIECE)))));
  const { size } = fourier;
  const [lowest, highest] = [Math.max(LOWEST, rate / size), rate / 2];
  /** Where a row begins among the frequencies of a piece. */
  const edges = Array.from(
    { length: rows + 1 },
    (_, row) => (lowest * (highest / lowest) ** (row / rows) * size) / rate,
  );
  const levels = new Uint8ClampedArray(columns * rows);
  const hop = frames / columns;
  const pieces = Math.min(MOST_PIECES, Math.max(1, Math.ceil(hop / size)));
  const powers = new Float64Array(size / 2);
  for (let column = 0; column < columns && frames > 0; column++) {
    powers.fill(0);
    for (let piece = 0; piece < pieces; piece++) {
      const middle = (column + (piece + 0.5) / pieces) * hop;
      fourier.addPowers(mono, Math.round(middle - size / 2), powers);
    }
    for (let row = 0; row < rows; row++) {
      const power = powerBetween(powers, edges[row], edges[row + 1]) / pieces;
      levels[(rows - 1 - row) * columns + column] = 255 * (1 + (10 * Math.log10(power + 1e-30)) / DEPTH);
    }
  }
  return { columns, rows, levels, lowest, highest };
}

/** The greatest between two places; between two frequencies, what lies between theirs. */
function powerBetween(powers: Float64Array, from: number, to: number): number {
  const last = powers.length - 1;
  const middle = Math.min(last, (from + to) / 2);
  const [below, share] = [Math.floor(middle), middle % 1];
  let greatest = powers[below] * (1 - share) + powers[Math.min(last, below + 1)] * share;
  for (let i = Math.ceil(from); i < to && i <= last; i++) {
    greatest = Math.max(greatest, powers[i]);
  }
  return greatest;
}
