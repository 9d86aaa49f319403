/** A sound's waveform: the lowest and highest sample of each column, over all channels. */
import type { Sound } from '../../core/media.ts';

export interface Peaks {
  low: Float32Array<ArrayBuffer>;
  high: Float32Array<ArrayBuffer>;
}

/** @param columns number of columns; if there are fewer samples, gaps are filled from their neighbours */
export function peaksOf({ channels }: Pick<Sound, 'channels'>, columns: number): Peaks {
  const low = new Float32Array(columns);
  const high = new Float32Array(columns);
  const frames = channels[0].length;
  for (let column = 0; column < columns && frames > 0; column++) {
    const start = Math.floor((column * frames) / columns);
    const end = Math.max(start + 1, Math.floor(((column + 1) * frames) / columns));
    let [lowest, highest] = [Infinity, -Infinity];
    for (const plane of channels) {
      for (let frame = start; frame < end; frame++) {
        const sample = plane[frame];
        lowest = sample < lowest ? sample : lowest;
        highest = sample > highest ? sample : highest;
      }
    }
    low[column] = lowest;
    high[column] = highest;
  }
  return { low, high };
}

/**
 * Draws them over the whole canvas, a bar each.
 * @param size in the units of the context
 * @param split columns before it are drawn in `played`
 * @param bar width of one; the rest of its column is a gap
 */
export function drawPeaks(
  context: Pick<OffscreenCanvasRenderingContext2D, 'fillRect' | 'clearRect' | 'fillStyle'>,
  { low, high }: Peaks,
  size: { width: number; height: number },
  colours: { played: string; rest: string },
  split = 0,
  bar = size.width / low.length,
): void {
  const middle = size.height / 2;
  const step = size.width / low.length;
  context.clearRect(0, 0, size.width, size.height);
  low.forEach((lowest, column) => {
    const top = middle - middle * Math.min(1, Math.max(-1, high[column]));
    const bottom = middle - middle * Math.min(1, Math.max(-1, lowest));
    context.fillStyle = column < split ? colours.played : colours.rest;
    // Silence is a line, not nothing.
    context.fillRect(column * step, Math.min(top, middle - 0.5), bar, Math.max(1, bottom - top));
  });
}
