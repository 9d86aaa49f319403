/** Weights given by a formula, so that no file has to hold them; `reference/weightless.py` computes the same bits. */

const GOLDEN = 0x9e3779b9;

/** lowbias32 of word `i` of a tensor. */
function word(tensor: number, i: number): number {
  let h = (i + Math.imul(tensor, GOLDEN)) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return h ^ (h >>> 16);
}

/**
 * `count` values from `add` − `scale` to `add` + `scale`: lowbias32 of the element's index, 24 bits of it as a fraction.
 * @param tensor its number, which makes its values differ from other tensors'
 * @param first index of the first of them
 */
export function hashed(
  tensor: number,
  count: number,
  scale: number,
  add: number,
  first = 0,
): Float32Array<ArrayBuffer> {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const u = (word(tensor, first + i) >>> 8) * 2 ** -24;
    values[i] = Math.fround(scale * (2 * u - 1)) + add;
  }
  return values;
}

/** Bytes [begin, end) of a tensor of integers: each word in little endian. */
export function hashedBytes(tensor: number, begin: number, end: number): Uint8Array<ArrayBuffer> {
  const first = Math.floor(begin / 4);
  const words = new Uint32Array(Math.ceil(end / 4) - first);
  for (let i = 0; i < words.length; i++) {
    words[i] = word(tensor, first + i);
  }
  return new Uint8Array(words.buffer).subarray(begin - 4 * first, end - 4 * first);
}
