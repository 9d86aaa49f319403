/**
 * Normal random numbers as `torch.randn` draws them on an NVIDIA GPU, in the imitation that AUTOMATIC1111 calls "NV": Philox4x32-10,
 * keeping the first number of each Box-Muller pair. Equal to AUTOMATIC1111's arithmetic to the bit, and to a GPU's up to the rounding of its
 * sine and logarithm.
 *
 * Source: https://www.thesalmons.org/john/random123/papers/random123sc11.pdf
 */
import type { PhiloxState } from './noise.ts';

const f = Math.fround;

const ROUNDS = 10;
const MULTIPLIER_A = 0xd2511f53;
const MULTIPLIER_B = 0xcd9e8d57;
const KEY_STEP_A = 0x9e3779b9;
const KEY_STEP_B = 0xbb67ae85;

/** 2^-32 and 2π·2^-32 as f32; the rest is computed in f64. */
const UNIT = f(2.3283064e-10);
const TURN = f(2.3283064e-10 * 6.2831855);

export class PhiloxGenerator {
  readonly #key: readonly [low: number, high: number];
  #offset = 0;

  /** @param seed a whole number, of which the low 64 bits count */
  constructor(seed: string | bigint) {
    const bits = BigInt.asUintN(64, BigInt(seed));
    this.#key = [Number(bits & 0xffffffffn), Number(bits >> 32n)];
  }

  get state(): PhiloxState {
    return { offset: this.#offset };
  }

  set state({ offset }: PhiloxState) {
    this.#offset = offset;
  }

  /** The next `n` values of N(0, 1); each depends only on the seed, its index and the number of earlier calls. */
  randn(n: number): Float32Array<ArrayBuffer> {
    const out = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      let [c0, c1, c2, c3] = [this.#offset, 0, i, 0];
      let [k0, k1] = this.#key;
      for (let round = 0; round < ROUNDS; round++) {
        const highA = multiplyHigh(c0, MULTIPLIER_A);
        const lowA = Math.imul(c0, MULTIPLIER_A);
        const highB = multiplyHigh(c2, MULTIPLIER_B);
        const lowB = Math.imul(c2, MULTIPLIER_B);
        c0 = highB ^ c1 ^ k0;
        c2 = highA ^ c3 ^ k1;
        c1 = lowB;
        c3 = lowA;
        k0 = (k0 + KEY_STEP_A) | 0;
        k1 = (k1 + KEY_STEP_B) | 0;
      }
      const u = (c0 >>> 0) * UNIT + UNIT / 2;
      const v = (c1 >>> 0) * TURN + TURN / 2;
      out[i] = Math.sqrt(-2 * Math.log(u)) * Math.sin(v);
    }
    this.#offset++;
    return out;
  }
}

/** The upper 32 bits of the product of two unsigned numbers of 32 bits. */
function multiplyHigh(a: number, b: number): number {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + ((middle & 0xffff) + aLow * bHigh) / 0x10000) | 0;
}
