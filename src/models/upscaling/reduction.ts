/**
 * Reduces an enlarged picture to a smaller whole factor, as Real-ESRGAN's own networks for 2 and 3 do: bicubic without antialiasing, from
 * the four nearest pixels per side. Equal to torch's `interpolate(mode='bicubic', align_corners=False)` and ncnn's Interp.
 */
import type { Extent } from '../../core/picture_tiles.ts';

/** Parameter of Keys' cubic convolution, as in torch and OpenCV. */
const A = -0.75;

interface Taps {
  first: number;
  weights: readonly number[];
}

/**
 * @param planes [3, size.height, size.width]
 * @param to whole sides, both reduced by the same factor
 */
export function reduceBicubic(planes: Float32Array, size: Extent, to: Extent): Float32Array {
  const across = tapsOf(size.width, to.width);
  const down = tapsOf(size.height, to.height);
  const rows = new Float32Array(3 * size.height * to.width);
  for (let line = 0; line < 3 * size.height; line++) {
    for (let x = 0; x < to.width; x++) {
      const { first, weights } = across[x];
      let sum = 0;
      for (let k = 0; k < 4; k++) {
        sum += weights[k] * planes[line * size.width + within(first + k, size.width)];
      }
      rows[line * to.width + x] = sum;
    }
  }
  const reduced = new Float32Array(3 * to.height * to.width);
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < to.height; y++) {
      const { first, weights } = down[y];
      const lines = [0, 1, 2, 3].map((k) => (c * size.height + within(first + k, size.height)) * to.width);
      for (let x = 0; x < to.width; x++) {
        reduced[(c * to.height + y) * to.width + x] =
          weights[0] * rows[lines[0] + x] +
          weights[1] * rows[lines[1] + x] +
          weights[2] * rows[lines[2] + x] +
          weights[3] * rows[lines[3] + x];
      }
    }
  }
  return reduced;
}

function tapsOf(from: number, to: number): Taps[] {
  return Array.from({ length: to }, (_, n) => {
    const at = ((n + 0.5) * from) / to - 0.5;
    const nearest = Math.floor(at);
    const t = at - nearest;
    return { first: nearest - 1, weights: [far(t + 1), near(t), near(1 - t), far(2 - t)] };
  });
}

function near(x: number): number {
  return ((A + 2) * x - (A + 3)) * x * x + 1;
}

function far(x: number): number {
  return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A;
}

function within(index: number, length: number): number {
  return Math.min(length - 1, Math.max(0, index));
}
