/**
 * How near things in a picture probably are, guessed from the picture alone, as a control picture: white is near, black far. It knows nothing of
 * what is shown. It goes by where something stands (lower is nearer), by haze (what is far is pale) and by sharpness (what is far is often out
 * of focus), and keeps to the picture's edges.
 *
 * Reference: He, Sun and Tang, "Single Image Haze Removal Using Dark Channel Prior" (the haze), "Fast Guided Filter" (the edges)
 */
import type { PixelImage } from '../core/media.ts';
import { resizeLanczos } from '../core/pillow_resize.ts';
import { blurred } from './gaussian.ts';

/** How much each cue counts. */
const WEIGHTS = { place: 0.5, haze: 0.25, sharpness: 0.25 };
/** Longest side in pixels at which the cues are looked for. */
const SIDE = 256;
/** Of what is smoothed, in pixels there. */
const SIGMA = { haze: 2, fine: 1, coarse: 4, detail: 4, least: 2, share: 1 / 32 };
/** Contrast that is noise, and the variance up to which something is no edge. */
const [NOISE, FLAT] = [0.02, 0.005];

/**
 * @param size of the result
 * @returns opaque; what is transparent is as far as can be, and its hidden colours count for nothing
 */
export function roughDepth(picture: PixelImage, { width, height }: { width: number; height: number }): PixelImage {
  const shown = resizeLanczos(overWhite(picture), width, height);
  const { data: alpha } = resizeLanczos(picture, width, height);
  const scale = Math.min(1, SIDE / Math.max(width, height));
  const [w, h] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const small = resizeLanczos(shown, w, h);
  const [slope, offset] = guided(lightness(small), cues(small), w, h);
  const light = lightness(shown);
  const depth = light.map((value, at) => {
    const x = ((at % width) + 0.5) * (w / width) - 0.5;
    const y = (Math.floor(at / width) + 0.5) * (h / height) - 0.5;
    return between(slope, w, h, x, y) * value + between(offset, w, h, x, y);
  });
  const [least, most] = depth.reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
  const data = new Uint8ClampedArray(4 * width * height);
  depth.forEach((value, at) => {
    const share = most > least ? (value - least) / (most - least) : 0.5;
    data.fill(Math.round(share * alpha[4 * at + 3]), 4 * at, 4 * at + 3);
    data[4 * at + 3] = 255;
  });
  return { width, height, data };
}

function overWhite({ width, height, data }: PixelImage): PixelImage {
  const over = new Uint8ClampedArray(data.length);
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3] / 255;
    for (let channel = 0; channel < 3; channel++) {
      over[at + channel] = 255 + alpha * (data[at + channel] - 255);
    }
    over[at + 3] = 255;
  }
  return { width, height, data: over };
}

/** 0 … 1 */
function lightness({ width, height, data }: PixelImage): Float32Array {
  return Float32Array.from(
    { length: width * height },
    (_, at) => (0.299 * data[4 * at] + 0.587 * data[4 * at + 1] + 0.114 * data[4 * at + 2]) / 255,
  );
}

/** Nearness by each cue, 0 … 1, together. */
function cues(picture: PixelImage): Float32Array {
  const { width, height, data } = picture;
  const smooth = (values: Float32Array, sigma: number) => blurred(values, width, height, sigma);
  const pale = Float32Array.from(
    { length: width * height },
    (_, at) => Math.min(data[4 * at], data[4 * at + 1], data[4 * at + 2]) / 255,
  );
  const haze = smooth(pale, SIGMA.haze);
  const light = lightness(picture);
  const detail = (sigma: number) => {
    const around = smooth(light, sigma);
    return smooth(
      light.map((value, at) => Math.abs(value - around[at])),
      SIGMA.detail,
    );
  };
  const [fine, coarse] = [detail(SIGMA.fine), detail(SIGMA.coarse)];
  return light.map((_, at) => {
    const place = height === 1 ? 0.5 : Math.floor(at / width) / (height - 1);
    const sharpness = Math.min(1, (2 * fine[at]) / (fine[at] + coarse[at] + NOISE));
    return WEIGHTS.place * place + WEIGHTS.haze * (1 - haze[at]) + WEIGHTS.sharpness * sharpness;
  });
}

/** Slope and offset by which values follow a guide, so that they change where it does. */
function guided(guide: Float32Array, values: Float32Array, width: number, height: number) {
  const sigma = Math.max(SIGMA.least, Math.round(Math.max(width, height) * SIGMA.share));
  const smooth = (one: Float32Array) => blurred(one, width, height, sigma);
  const [meanGuide, mean] = [smooth(guide), smooth(values)];
  const both = smooth(guide.map((value, at) => value * values[at]));
  const square = smooth(guide.map((value) => value * value));
  const slope = both.map((value, at) => {
    const variance = Math.max(0, square[at] - meanGuide[at] ** 2);
    return (value - meanGuide[at] * mean[at]) / (variance + FLAT);
  });
  const offset = mean.map((value, at) => value - slope[at] * meanGuide[at]);
  return [smooth(slope), smooth(offset)] as const;
}

/** Between the four nearest values, at the border the outermost. */
function between(values: Float32Array, width: number, height: number, x: number, y: number): number {
  const [u, v] = [Math.min(width - 1, Math.max(0, x)), Math.min(height - 1, Math.max(0, y))];
  const [left, top] = [Math.floor(u), Math.floor(v)];
  const [right, bottom] = [Math.min(width - 1, left + 1), Math.min(height - 1, top + 1)];
  const row = (line: number) =>
    values[line * width + left] * (1 - u + left) + values[line * width + right] * (u - left);
  return row(top) * (1 - v + top) + row(bottom) * (v - top);
}
