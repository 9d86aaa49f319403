/**
 * Floating point conversions between the types that checkpoints store and the types that graphs compute in.
 * Widening is exact; narrowing rounds to the nearest even, and values beyond ±65504 become infinite in f16, as torch does.
 * The 8-bit types are torch's float8_e4m3fn (no infinity, up to 448) and float8_e5m2 (the upper half of an f16).
 */
export type FloatType = 'F64' | 'F32' | 'F16' | 'BF16' | 'F8_E4M3' | 'F8_E5M2';

export const BYTES: Record<FloatType, number> = { F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1 };

/** All 65,536 half-precision values as f32 bits; built on first use (1/4 MiB). */
let halfTable: Uint32Array | undefined;

function halfBits(): Uint32Array {
  if (halfTable) {
    return halfTable;
  }
  const table = new Uint32Array(65536);
  const value = new Float32Array(1);
  const bits = new Uint32Array(value.buffer);
  for (let h = 0; h < 65536; h++) {
    const exponent = (h >>> 10) & 31;
    const fraction = h & 1023;
    const magnitude =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 31
          ? fraction === 0
            ? Infinity
            : NaN
          : (1 + fraction / 1024) * 2 ** (exponent - 15);
    value[0] = magnitude;
    table[h] = bits[0] | ((h & 0x8000) << 16);
  }
  halfTable = table;
  return table;
}

/** All 256 values of an 8-bit type as f32 bits. */
const byteTables: Partial<Record<FloatType, Uint32Array>> = {};

function byteBits(type: 'F8_E4M3' | 'F8_E5M2'): Uint32Array {
  return (byteTables[type] ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    if (type === 'F8_E5M2') {
      return halfBits()[byte << 8];
    }
    const [exponent, fraction] = [(byte >>> 3) & 15, byte & 7];
    const magnitude = exponent === 0 ? fraction * 2 ** -9 : (1 + fraction / 8) * 2 ** (exponent - 7);
    scratch[0] = (byte & 0x7f) === 0x7f ? NaN : magnitude;
    return scratchBits[0] | ((byte & 0x80) << 24);
  }));
}

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** f32 bits → nearest f16 bits, ties to even. */
function narrow(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) {
    return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  }
  if (magnitude >= 0x477ff000) {
    return sign | 0x7c00;
  }
  if (magnitude < 0x38800000) {
    // Subnormal in f16: the unit is 2^-24, and adding 0.5 in f32 lets the hardware round to it.
    scratchBits[0] = magnitude;
    scratch[0] += 0.5;
    return sign | (scratchBits[0] - 0x3f000000);
  }
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13);
}

/** The bits of the f16 nearest to a number. */
export function toHalf(value: number): number {
  scratch[0] = value;
  return narrow(scratchBits[0]);
}

/** The number that 16 bits are as an f16. */
export function fromHalf(half: number): number {
  scratchBits[0] = halfBits()[half];
  return scratch[0];
}

/**
 * @param source whole elements of type `from`; any byte offset
 * @param memory what the result is written to the beginning of, instead of fresh memory; not that of the source
 * @returns the same elements as little-endian bytes of type `to`
 */
export function convert(
  source: Uint8Array,
  from: FloatType,
  to: FloatType,
  memory?: ArrayBuffer,
): Uint8Array<ArrayBuffer> {
  const count = source.byteLength / BYTES[from];
  const result = new Uint8Array(memory ?? new ArrayBuffer(count * BYTES[to]), 0, count * BYTES[to]);
  if (from === to) {
    result.set(source);
    return result;
  }
  if (to !== 'F32' && to !== 'F16') {
    throw new TypeError(`Nothing computes in ${to}; convert to F32 or F16.`);
  }
  // Views of wider elements have to be aligned, whatever the offset in the file was.
  const aligned = source.byteOffset % BYTES[from] === 0 ? source : source.slice();
  if (from !== 'F32' && to === 'F32') {
    widen(aligned, from, new Uint32Array(result.buffer, 0, count));
    return result;
  }
  const half = new Uint16Array(result.buffer, 0, count);
  const wide = from === 'F32' ? new Uint32Array(aligned.buffer, aligned.byteOffset, count) : new Uint32Array(count);
  if (from !== 'F32') {
    widen(aligned, from, wide);
  }
  for (let i = 0; i < count; i++) {
    half[i] = narrow(wide[i]);
  }
  return result;
}

/** @param wide takes the elements of `source` as f32 bits */
function widen(source: Uint8Array, from: Exclude<FloatType, 'F32'>, wide: Uint32Array): void {
  const { buffer, byteOffset } = source;
  switch (from) {
    case 'F64':
      new Float32Array(wide.buffer, wide.byteOffset, wide.length).set(
        new Float64Array(buffer, byteOffset, wide.length),
      );
      break;
    case 'BF16': {
      const halves = new Uint16Array(buffer, byteOffset, wide.length);
      for (let i = 0; i < wide.length; i++) {
        wide[i] = halves[i] << 16;
      }
      break;
    }
    case 'F16':
      look(new Uint16Array(buffer, byteOffset, wide.length), halfBits(), wide);
      break;
    case 'F8_E4M3':
    case 'F8_E5M2':
      look(source, byteBits(from), wide);
  }
}

function look(codes: Uint16Array | Uint8Array, table: Uint32Array, wide: Uint32Array): void {
  for (let i = 0; i < wide.length; i++) {
    wide[i] = table[codes[i]];
  }
}
