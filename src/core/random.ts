/**
 * Normal random numbers, bit for bit those of `torch.randn` on an x86-64 CPU, so that a seed gives the same picture here as in diffusers
 * and ComfyUI.
 * The generator is MT19937. Calls for 16 or more values follow PyTorch's vectorised path, reproducing its AVX2 `log` and `sincos`
 * (avx_mathfun.h, compiled with fused multiply-add) operation by operation; shorter calls follow its scalar path in f64. Sources: ATen/native/cpu/DistributionTemplates.h, ATen/core/{MT19937RNGEngine,TransformationHelper}.h.
 */
import type { GeneratorState, LatentDims, NoiseSource } from './noise.ts';

/** Words of MT19937's state. */
export const GENERATOR_WORDS = 624;
const STATE = GENERATOR_WORDS;
const SHIFT = 397;

const f = Math.fround;
const TWO_PI_F32 = f(2 * Math.PI);

/** Coefficients of avx_mathfun.h, as f32. */
const LOG = [
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
  2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
].map(f);
const LOG_Q1 = f(-2.1219444e-4);
const LOG_Q2 = f(0.693359375);
const SQRT_HALF = f(Math.SQRT1_2);
const FOUR_OVER_PI = f(1.27323954473516);
const DP1 = f(-0.78515625);
const DP2 = f(-2.4187564849853515625e-4);
const DP3 = f(-3.774894977445941e-8);
const COS0 = f(2.443315711809948e-5);
const COS1 = f(-1.388731625493765e-3);
const COS2 = f(4.166664568298827e-2);
const SIN0 = f(-1.9515295891e-4);
const SIN1 = f(8.3321608736e-3);
const SIN2 = f(-1.6666654611e-1);

const double = new Float64Array(1);
const doubleBits = new Uint32Array(double.buffer);
/** Index of a double's low word: 0 on little-endian machines, which is every machine browsers run on. */
const LOW = ((double[0] = 1), doubleBits[0] === 0 ? 0 : 1);
const single = new Float32Array(1);
const singleBits = new Uint32Array(single.buffer);

/**
 * `a·b + c` in f32, rounded once. The product is exact in f64; rounding the sum to f64 and then to f32 goes wrong only if the f64 sum lies
 * exactly between two f32 numbers, where the error of the first rounding decides.
 */
function fma(a: number, b: number, c: number): number {
  const product = a * b;
  const sum = product + c;
  double[0] = sum;
  const low = doubleBits[LOW];
  if ((low & 0x1fffffff) === 0x10000000) {
    const part = sum - product;
    const error = product - (sum - part) + (c - part);
    if (error !== 0) {
      // One f64 step towards the error; the low word is neither all ones nor zero here, so there is no carry.
      doubleBits[LOW] = error > 0 === sum > 0 ? low + 1 : low - 1;
      return f(double[0]);
    }
  }
  return f(sum);
}

/** f32 log of 0 < x ≤ 1. */
function log(value: number): number {
  single[0] = value;
  const bits = singleBits[0];
  let exponent = (bits >>> 23) - 126;
  singleBits[0] = (bits & 0x007fffff) | 0x3f000000;
  let x = single[0];
  if (x < SQRT_HALF) {
    exponent -= 1;
    x = f(f(x - 1) + x);
  } else {
    x = f(x - 1);
  }
  const z = f(x * x);
  let y = LOG[0];
  for (let i = 1; i < 9; i++) {
    y = fma(y, x, LOG[i]);
  }
  y = f(y * x);
  y = fma(y, z, f(exponent * LOG_Q1));
  y = fma(-z, 0.5, y);
  return fma(exponent, LOG_Q2, f(x + y));
}

/** MT19937 and the two ways `torch.randn` turns its output into normal numbers. As a noise source it draws everything in turn. */
export class TorchGenerator implements NoiseSource {
  readonly #state = new Uint32Array(STATE);
  #index = STATE;
  /** The second number of the scalar path's pair, kept for the next short call. */
  #cached: number | null = null;

  /** @param seed a whole number; as in PyTorch only its low 32 bits count. */
  constructor(seed: string | bigint) {
    let previous = Number(BigInt.asUintN(32, BigInt(seed)));
    this.#state[0] = previous;
    for (let j = 1; j < STATE; j++) {
      previous = (Math.imul(1812433253, previous ^ (previous >>> 30)) + j) >>> 0;
      this.#state[j] = previous;
    }
  }

  /** A copy, unaffected by later draws. */
  get state(): GeneratorState {
    return { words: this.#state.slice(), index: this.#index, cached: this.#cached };
  }

  /** Continues from `state`. */
  set state({ words, index, cached }: GeneratorState) {
    if (words.length !== STATE || !Number.isInteger(index) || index < 0 || index > STATE) {
      throw new TypeError(`A generator's state has ${STATE} words, of which 0 to ${STATE} are used up.`);
    }
    this.#state.set(words);
    this.#index = index;
    this.#cached = cached;
  }

  /**
   * The next `n` values of N(0, 1), in the order of a contiguous tensor of `n` elements. The tensor's shape does not matter, but the
   * number of values per call does.
   */
  randn(n: number): Float32Array<ArrayBuffer> {
    const out = new Float32Array(n);
    if (n < 16) {
      for (let i = 0; i < n; i++) {
        out[i] = this.#scalarNormal();
      }
      return out;
    }
    for (let i = 0; i < n; i++) {
      out[i] = this.#uniform();
    }
    for (let i = 0; i + 16 <= n; i += 16) {
      blockToNormal(out, i);
    }
    if (n % 16 !== 0) {
      // PyTorch recomputes the last 16 places from fresh numbers.
      for (let i = n - 16; i < n; i++) {
        out[i] = this.#uniform();
      }
      blockToNormal(out, n - 16);
    }
    return out;
  }

  ofPosterior(count: number): Float32Array<ArrayBuffer> {
    return this.randn(count);
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    return this.randn(dims.reduce((product, size) => product * size, 1));
  }

  ofStep(dims: LatentDims): Float32Array<ArrayBuffer> {
    return this.ofStart(dims);
  }

  #scalarNormal(): number {
    if (this.#cached !== null) {
      const value = this.#cached;
      this.#cached = null;
      return value;
    }
    const angle = 2 * Math.PI * this.uniform();
    const radius = Math.sqrt(-2 * Math.log1p(-this.uniform()));
    this.#cached = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** 24 random bits as f32 in [0, 1). */
  #uniform(): number {
    return (this.#next() & 0xffffff) / 2 ** 24;
  }

  /** 53 random bits as f64 in [0, 1). */
  uniform(): number {
    const high = this.#next();
    const low = this.#next();
    return ((high & 0x1fffff) * 2 ** 32 + low) / 2 ** 53;
  }

  #next(): number {
    if (this.#index === STATE) {
      this.#twist();
    }
    let y = this.#state[this.#index++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #twist(): void {
    const s = this.#state;
    for (let i = 0; i < STATE; i++) {
      const y = (s[i] & 0x80000000) | (s[(i + 1) % STATE] & 0x7fffffff);
      s[i] = s[(i + SHIFT) % STATE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#index = 0;
  }
}

/** Box-Muller on 16 uniforms in place: 8 radii from the first half, 8 angles from the second. */
function blockToNormal(data: Float32Array, offset: number): void {
  for (let i = offset; i < offset + 8; i++) {
    const radius = f(Math.sqrt(f(-2 * log(f(1 - data[i])))));
    const angle = f(TWO_PI_F32 * data[i + 8]);

    // sincos: the octant of the angle, then one polynomial each.
    const octant = (Math.trunc(f(angle * FOUR_OVER_PI)) + 1) & ~1;
    const x = fma(octant, DP3, fma(octant, DP2, fma(octant, DP1, angle)));
    const z = f(x * x);
    const c = f(fma(f(fma(fma(COS0, z, COS1), z, COS2) * z), z, -f(z * 0.5)) + 1);
    const s = fma(f(fma(fma(SIN0, z, SIN1), z, SIN2) * z), x, x);
    const swap = (octant & 2) !== 0;
    const sine = swap ? c : s;
    const cosine = swap ? s : c;

    data[i] = radius * ((~(octant - 2) & 4) !== 0 ? -cosine : cosine);
    data[i + 8] = radius * ((octant & 4) !== 0 ? -sine : sine);
  }
}
