/** Spherical interpolation between two noises, column by column, as AUTOMATIC1111 mixes in a variation: modules/rng.py, `slerp`. */

/** Above this average similarity, columns are interpolated linearly. */
const PARALLEL = 0.9995;

/**
 * @param share of `high`, 0 … 1
 * @param shape of both: channels, height, width
 */
export function slerp(
  share: number,
  low: Float32Array<ArrayBuffer>,
  high: Float32Array<ArrayBuffer>,
  [channels, height, width]: readonly [number, number, number],
): Float32Array<ArrayBuffer> {
  const columns = channels * width;
  const angles = new Float64Array(columns);
  for (let column = 0; column < columns; column++) {
    let [product, lows, highs] = [0, 0, 0];
    for (let row = 0; row < height; row++) {
      const at = placeOf(column, row, height, width);
      product += low[at] * high[at];
      lows += low[at] ** 2;
      highs += high[at] ** 2;
    }
    angles[column] = product / Math.sqrt(lows * highs);
  }
  const isParallel = angles.reduce((sum, cosine) => sum + cosine, 0) / columns > PARALLEL;
  const out = new Float32Array(low.length);
  for (let column = 0; column < columns; column++) {
    const angle = Math.acos(angles[column]);
    // AUTOMATIC1111's linear interpolation runs in the opposite direction, too.
    const [a, b] = isParallel
      ? [share, 1 - share]
      : [Math.sin((1 - share) * angle) / Math.sin(angle), Math.sin(share * angle) / Math.sin(angle)];
    for (let row = 0; row < height; row++) {
      const at = placeOf(column, row, height, width);
      out[at] = a * low[at] + b * high[at];
    }
  }
  return out;
}

function placeOf(column: number, row: number, height: number, width: number): number {
  return (Math.floor(column / width) * height + row) * width + (column % width);
}
