/**
 * Lines in a picture, found without a network, as control pictures: white on black.
 *
 * Reference: OpenCV's `Canny` (modules/imgproc/src/canny.cpp), by the same integers; and the formula of AUTOMATIC1111's
 * `lineart_standard`, which is how much darker a pixel is than its surroundings.
 */
import type { Detector } from '../core/controlnets.ts';
import type { PixelImage } from '../core/media.ts';
import { resizeLanczos } from '../core/pillow_resize.ts';
import { blurred } from './gaussian.ts';
import { roughDepth } from './rough_depth.ts';

/** The usual thresholds of the tools. */
const CANNY = { low: 100, high: 200 };
/** tan 22.5° in units of 2^-15. */
const TAN_22 = 13573;

const LINES_SIGMA = 6;
/** Differences below count as noise; a picture without stronger ones gets no stronger lines than this makes of them. */
const NOISE = 8;
const LEAST_SPREAD = 16;

/**
 * A given picture as a ControlNet sees it.
 * @param size of the result, at which lines are found, so that they are as thin as they should be
 */
export function detected(
  picture: PixelImage,
  detector: Detector,
  { width, height }: { width: number; height: number },
): PixelImage {
  switch (detector) {
    case 'none':
      return picture;
    case 'canny':
      return canny(resizeLanczos(picture, width, height), CANNY);
    case 'lineart':
      return lineart(resizeLanczos(picture, width, height));
    case 'depth':
      return roughDepth(picture, { width, height });
  }
}

/** @param thresholds of the gradient: what exceeds `high` is an edge, and what exceeds `low` where it goes on from one */
export function canny(picture: PixelImage, { low, high }: { low: number; high: number }): PixelImage {
  const { width, height } = picture;
  const [dx, dy] = gradients(picture);
  // With a border of nothing around the picture.
  const row = width + 2;
  const magnitude = new Int32Array(row * (height + 2));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      magnitude[(y + 1) * row + x + 1] = Math.abs(dx[at]) + Math.abs(dy[at]);
    }
  }
  const isEdge = new Uint8Array(width * height);
  const isCandidate = new Uint8Array(width * height);
  const strong: number[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const m = (y + 1) * row + x + 1;
      if (magnitude[m] > low && isRidge(magnitude, m, row, dx[at], dy[at])) {
        isCandidate[at] = 1;
        if (magnitude[m] > high) {
          isEdge[at] = 1;
          strong.push(at);
        }
      }
    }
  }
  for (let at = strong.pop(); at !== undefined; at = strong.pop()) {
    const [x, y] = [at % width, Math.floor(at / width)];
    for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
      for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
        const next = v * width + u;
        if (isCandidate[next] === 1 && isEdge[next] === 0) {
          isEdge[next] = 1;
          strong.push(next);
        }
      }
    }
  }
  return grey(picture, (at) => 255 * isEdge[at]);
}

/** Whether the magnitude at `m` is the greatest across the edge. */
function isRidge(magnitude: Int32Array, m: number, row: number, dx: number, dy: number): boolean {
  const own = magnitude[m];
  const [x, y] = [Math.abs(dx) * TAN_22, Math.abs(dy) * 2 ** 15];
  if (y < x) {
    return own > magnitude[m - 1] && own >= magnitude[m + 1];
  }
  if (y > x + Math.abs(dx) * 2 ** 16) {
    return own > magnitude[m - row] && own >= magnitude[m + row];
  }
  const side = dx < 0 !== dy < 0 ? -1 : 1;
  return own > magnitude[m - row - side] && own > magnitude[m + row + side];
}

/** Sobel's, of the channel in which they are greatest. */
function gradients({ width, height, data }: PixelImage): [Int16Array, Int16Array] {
  const [dx, dy] = [new Int16Array(width * height), new Int16Array(width * height)];
  for (let y = 0; y < height; y++) {
    const rows = [Math.max(0, y - 1), y, Math.min(height - 1, y + 1)].map((one) => one * width);
    for (let x = 0; x < width; x++) {
      const columns = [Math.max(0, x - 1), x, Math.min(width - 1, x + 1)];
      let greatest = -1;
      for (let channel = 0; channel < 3; channel++) {
        const value = (v: number, u: number) => data[4 * (rows[v] + columns[u]) + channel];
        const across = value(0, 2) - value(0, 0) + 2 * (value(1, 2) - value(1, 0)) + value(2, 2) - value(2, 0);
        const down = value(2, 0) - value(0, 0) + 2 * (value(2, 1) - value(0, 1)) + value(2, 2) - value(0, 2);
        if (Math.abs(across) + Math.abs(down) > greatest) {
          greatest = Math.abs(across) + Math.abs(down);
          [dx[rows[1] + x], dy[rows[1] + x]] = [across, down];
        }
      }
    }
  }
  return [dx, dy];
}

/** Dark lines and edges of things, soft. */
export function lineart(picture: PixelImage): PixelImage {
  const { width, height, data } = picture;
  const darker = new Float32Array(width * height).fill(Infinity);
  for (let channel = 0; channel < 3; channel++) {
    const own = Float32Array.from({ length: width * height }, (_, at) => data[4 * at + channel]);
    const around = blurred(own, width, height, LINES_SIGMA);
    darker.forEach((value, at) => (darker[at] = Math.min(value, around[at] - own[at])));
  }
  const clear = darker.map((value) => Math.min(255, Math.max(0, value)));
  const found = clear.filter((value) => value > NOISE).sort();
  const middle = found.length / 2;
  const median = found.length === 0 ? 0 : (found[Math.ceil(middle - 1)] + found[Math.floor(middle)]) / 2;
  const spread = Math.max(LEAST_SPREAD, median);
  return grey(picture, (at) => Math.floor(Math.min(255, (clear[at] / spread) * 127)));
}

function grey({ width, height }: PixelImage, value: (at: number) => number): PixelImage {
  const data = new Uint8ClampedArray(4 * width * height);
  for (let at = 0; at < width * height; at++) {
    data.fill(value(at), 4 * at, 4 * at + 3);
    data[4 * at + 3] = 255;
  }
  return { width, height, data };
}
