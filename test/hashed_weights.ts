/** Weights given by a formula, so that no file has to hold them; `reference/weightless.py` computes the same bits. */

/**
 * `count` values from `add` − `scale` to `add` + `scale`: lowbias32 of the element's index, 24 bits of it as a fraction.
 * @param tensor its number, which makes its values differ from other tensors'
 */
export function hashed(tensor: number, count: number, scale: number, add: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(count);
  const first = Math.imul(tensor, 0x9e3779b9);
  for (let i = 0; i < count; i++) {
    let h = (i + first) | 0;
    h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
    h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
    h ^= h >>> 16;
    const u = (h >>> 8) * 2 ** -24;
    values[i] = Math.fround(scale * (2 * u - 1)) + add;
  }
  return values;
}
