/** Blurring of one plane of numbers, as OpenCV's `GaussianBlur` does it but for where it ends a Gaussian. */

/**
 * Convolved with a Gaussian, the picture being mirrored at its outermost pixels.
 * @param sigma whole pixels
 */
export function blurred(values: Float32Array, width: number, height: number, sigma: number): Float32Array {
  const reach = 4 * sigma;
  const weights = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-((i - reach) ** 2) / (2 * sigma * sigma)));
  const sum = weights.reduce((all, one) => all + one, 0);
  const along = (from: Float32Array, count: number, step: number, lines: number, stride: number) => {
    const out = new Float32Array(from.length);
    const places = Array.from({ length: count + 2 * reach }, (_, i) => mirrored(i - reach, count) * step);
    for (let line = 0; line < lines; line++) {
      for (let at = 0; at < count; at++) {
        let value = 0;
        for (let k = 0; k <= 2 * reach; k++) {
          value += weights[k] * from[line * stride + places[at + k]];
        }
        out[line * stride + at * step] = value / sum;
      }
    }
    return out;
  };
  return along(along(values, width, 1, height, width), height, width, width, 1);
}

function mirrored(at: number, count: number): number {
  if (count === 1) {
    return 0;
  }
  const period = 2 * (count - 1);
  const place = ((at % period) + period) % period;
  return place < count ? place : period - place;
}
