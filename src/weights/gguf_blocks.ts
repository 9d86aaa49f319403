/**
 * The quantised types of GGUF: what lies where in a block, the numbers that a block stands for, and, for the two types that
 * `MatMulNBits` can take as they are, the same block in its layout.
 *
 * The numbers are those of the `gguf` package (gguf-py/gguf/quants.py), to the bit: every product and sum is rounded to f32 there.
 */
import { assert } from '../core/errors.ts';
import type { BlockType } from '../graphs/graph.ts';
import { BLOCK } from '../graphs/quantisation.ts';
import { fromHalf } from './conversion.ts';

/** Elements and bytes of one block. */
export const BLOCKS: Record<BlockType, { elements: number; bytes: number }> = {
  Q4_0: { elements: 32, bytes: 18 },
  Q4_1: { elements: 32, bytes: 20 },
  Q5_0: { elements: 32, bytes: 22 },
  Q5_1: { elements: 32, bytes: 24 },
  Q8_0: { elements: 32, bytes: 34 },
  Q2_K: { elements: 256, bytes: 84 },
  Q3_K: { elements: 256, bytes: 110 },
  Q4_K: { elements: 256, bytes: 144 },
  Q5_K: { elements: 256, bytes: 176 },
  Q6_K: { elements: 256, bytes: 210 },
  IQ4_NL: { elements: 32, bytes: 18 },
  IQ4_XS: { elements: 256, bytes: 136 },
};

/** The levels of IQ4_NL and IQ4_XS, denser around 0. */
const LEVELS = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

const { fround } = Math;

/** Writes the numbers of the block that begins at byte `at` to `out`, from its element `o` on. */
type Unpack = (bytes: Uint8Array, at: number, out: Float32Array, o: number) => void;

const UNPACK: Record<BlockType, Unpack> = {
  Q4_0(bytes, at, out, o) {
    const d = half(bytes, at);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 2 + i];
      out[o + i] = d * ((pair & 15) - 8);
      out[o + 16 + i] = d * ((pair >> 4) - 8);
    }
  },

  Q4_1(bytes, at, out, o) {
    const [d, m] = [half(bytes, at), half(bytes, at + 2)];
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 4 + i];
      out[o + i] = fround(d * (pair & 15)) + m;
      out[o + 16 + i] = fround(d * (pair >> 4)) + m;
    }
  },

  Q5_0(bytes, at, out, o) {
    const d = half(bytes, at);
    for (let i = 0; i < 32; i++) {
      out[o + i] = d * (fiveBits(bytes, at + 2, i) - 16);
    }
  },

  Q5_1(bytes, at, out, o) {
    const [d, m] = [half(bytes, at), half(bytes, at + 2)];
    for (let i = 0; i < 32; i++) {
      out[o + i] = fround(d * fiveBits(bytes, at + 4, i)) + m;
    }
  },

  Q8_0(bytes, at, out, o) {
    const d = half(bytes, at);
    for (let i = 0; i < 32; i++) {
      out[o + i] = d * signed(bytes[at + 2 + i]);
    }
  },

  /** 16 bytes with scales and minima of 4 bits, 64 with elements of 2 bits, then the scales of both. */
  Q2_K(bytes, at, out, o) {
    const [d, least] = [half(bytes, at + 80), half(bytes, at + 82)];
    for (let i = 0; i < 256; i++) {
      const scale = bytes[at + (i >> 4)];
      const q = (bytes[at + 16 + quarter(i)] >> shiftOfQuarter(i)) & 3;
      out[o + i] = fround(fround(d * (scale & 15)) * q) - fround(least * (scale >> 4));
    }
  },

  /** 32 bytes with the elements' third bits, 64 with their lower two, 12 with 16 scales of 6 bits, then the scale of these. */
  Q3_K(bytes, at, out, o) {
    const d = half(bytes, at + 108);
    for (let i = 0; i < 256; i++) {
      const n = i >> 4;
      const low = (bytes[at + 96 + (n & 7)] >> (n < 8 ? 0 : 4)) & 15;
      const high = (bytes[at + 104 + (n & 3)] >> (2 * (n >> 2))) & 3;
      const scale = fround(d * ((low | (high << 4)) - 32));
      const q = (bytes[at + 32 + quarter(i)] >> shiftOfQuarter(i)) & 3;
      // The offset is taken where the bit is not set.
      const isLow = ((bytes[at + (i & 31)] >> (i >> 5)) & 1) === 0;
      out[o + i] = scale * (isLow ? q - 4 : q);
    }
  },

  Q4_K(bytes, at, out, o) {
    const [d, least] = [half(bytes, at), half(bytes, at + 2)];
    for (let n = 0; n < 8; n++) {
      const [scale, minimum] = scaleAndMinimum(bytes, at + 4, n);
      const [own, ownLeast] = [fround(d * scale), fround(least * minimum)];
      for (let i = 0; i < 32; i++) {
        const q = (bytes[at + 16 + 32 * (n >> 1) + i] >> (n & 1 ? 4 : 0)) & 15;
        out[o + 32 * n + i] = fround(own * q) - ownLeast;
      }
    }
  },

  Q5_K(bytes, at, out, o) {
    const [d, least] = [half(bytes, at), half(bytes, at + 2)];
    for (let n = 0; n < 8; n++) {
      const [scale, minimum] = scaleAndMinimum(bytes, at + 4, n);
      const [own, ownLeast] = [fround(d * scale), fround(least * minimum)];
      for (let i = 0; i < 32; i++) {
        const low = (bytes[at + 48 + 32 * (n >> 1) + i] >> (n & 1 ? 4 : 0)) & 15;
        const high = (bytes[at + 16 + i] >> n) & 1;
        out[o + 32 * n + i] = fround(own * (low | (high << 4))) - ownLeast;
      }
    }
  },

  /** 128 bytes with the elements' lower four bits, 64 with their upper two, 16 scales, then the scale of these. */
  Q6_K(bytes, at, out, o) {
    const d = half(bytes, at + 208);
    for (let i = 0; i < 256; i++) {
      const within = i & 127;
      const low = (bytes[at + 64 * (i >> 7) + (within & 63)] >> (within < 64 ? 0 : 4)) & 15;
      const high = (bytes[at + 128 + 32 * (i >> 7) + (i & 31)] >> (2 * (within >> 5))) & 3;
      out[o + i] = fround(d * signed(bytes[at + 192 + (i >> 4)])) * ((low | (high << 4)) - 32);
    }
  },

  IQ4_NL(bytes, at, out, o) {
    const d = half(bytes, at);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 2 + i];
      out[o + i] = d * LEVELS[pair & 15];
      out[o + 16 + i] = d * LEVELS[pair >> 4];
    }
  },

  IQ4_XS(bytes, at, out, o) {
    const d = half(bytes, at);
    const highs = bytes[at + 2] | (bytes[at + 3] << 8);
    for (let n = 0; n < 8; n++) {
      const low = (bytes[at + 4 + (n >> 1)] >> (n & 1 ? 4 : 0)) & 15;
      const own = fround(d * ((low | (((highs >> (2 * n)) & 3) << 4)) - 32));
      for (let i = 0; i < 16; i++) {
        const pair = bytes[at + 8 + 16 * n + i];
        out[o + 32 * n + i] = own * LEVELS[pair & 15];
        out[o + 32 * n + 16 + i] = own * LEVELS[pair >> 4];
      }
    }
  },
};

/** @param bytes whole blocks */
export function unpackBlocks(bytes: Uint8Array, type: BlockType): Float32Array<ArrayBuffer> {
  const { elements, bytes: length } = BLOCKS[type];
  const unpack = UNPACK[type];
  const blocks = bytes.length / length;
  const values = new Float32Array(blocks * elements);
  for (let block = 0; block < blocks; block++) {
    unpack(bytes, block * length, values, block * elements);
  }
  return values;
}

/**
 * The same weights as `graphs/quantisation.ts` has them, without computing anything: Q8_0 keeps signed bytes and Q4_0 the two halves of a
 * block in the halves of its bytes, where neighbours are wanted.
 * @param bytes whole blocks
 */
export function repackBlocks(
  bytes: Uint8Array,
  type: 'Q4_0' | 'Q8_0',
): { data: Uint8Array<ArrayBuffer>; scales: Uint8Array<ArrayBuffer> } {
  const { bytes: length } = BLOCKS[type];
  const blocks = bytes.length / length;
  const width = length - 2;
  const data = new Uint8Array(blocks * width);
  const scales = new Uint8Array(blocks * 2);
  assert(BLOCKS[type].elements === BLOCK, 'their blocks are as long as ours');
  for (let block = 0; block < blocks; block++) {
    const [at, to] = [block * length + 2, block * width];
    scales[2 * block] = bytes[at - 2];
    scales[2 * block + 1] = bytes[at - 1];
    for (let i = 0; i < width; i++) {
      if (type === 'Q8_0') {
        data[to + i] = bytes[at + i] ^ 0x80;
      } else {
        // Elements 2i and 2i + 1; those below 16 are in the lower halves.
        const first = at + ((2 * i) & 15);
        const shift = i < 8 ? 0 : 4;
        data[to + i] = ((bytes[first] >> shift) & 15) | (((bytes[first + 1] >> shift) & 15) << 4);
      }
    }
  }
  return { data, scales };
}

function half(bytes: Uint8Array, at: number): number {
  return fromHalf(bytes[at] | (bytes[at + 1] << 8));
}

function signed(byte: number): number {
  return (byte << 24) >> 24;
}

/** Element `i` of Q5_0 and Q5_1: four bytes with the fifth bits, then 16 with the others as in Q4_0. */
function fiveBits(bytes: Uint8Array, at: number, i: number): number {
  const low = (bytes[at + 4 + (i & 15)] >> (i < 16 ? 0 : 4)) & 15;
  return low | (((bytes[at + (i >> 3)] >> (i & 7)) & 1) << 4);
}

/** Of 64 bytes with 256 elements of 2 bits, the one with element `i`: 32 bytes hold 128 elements, a quarter of them in the same two bits. */
function quarter(i: number): number {
  return 32 * (i >> 7) + (i & 31);
}

function shiftOfQuarter(i: number): number {
  return 2 * ((i >> 5) & 3);
}

/** The `n`th of eight scales and minima, 6 bits each, in 12 bytes of Q4_K and Q5_K. */
function scaleAndMinimum(bytes: Uint8Array, at: number, n: number): [scale: number, minimum: number] {
  const i = n & 3;
  const [first, second, third] = [bytes[at + i], bytes[at + 4 + i], bytes[at + 8 + i]];
  return n < 4 ? [first & 63, second & 63] : [(third & 15) | ((first >> 2) & 48), (third >> 4) | ((second >> 2) & 48)];
}
