/** The discrete Fourier transform of short pieces of sound, by Cooley and Tukey's algorithm (1965). */

/** The powers of a piece's frequencies. */
export class Fourier {
  readonly size: number;
  /** Hann's, scaled so that a tone of full scale has the power 1. */
  readonly #window: Float64Array;
  readonly #cosines: Float64Array;
  readonly #sines: Float64Array;
  readonly #real: Float64Array;
  readonly #imaginary: Float64Array;

  /** @param size a power of two */
  constructor(size: number) {
    this.size = size;
    this.#window = Float64Array.from({ length: size }, (_, i) => (2 / size) * (1 - Math.cos((2 * Math.PI * i) / size)));
    this.#cosines = Float64Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.#sines = Float64Array.from({ length: size / 2 }, (_, i) => -Math.sin((2 * Math.PI * i) / size));
    this.#real = new Float64Array(size);
    this.#imaginary = new Float64Array(size);
  }

  /**
   * Adds the powers of size / 2 frequencies, from 0 to half of the rate, to those in `powers`.
   * @param samples read from `start`, silent before their beginning and after their end
   */
  addPowers(samples: Float32Array, start: number, powers: Float64Array): void {
    const { size } = this;
    const [real, imaginary] = [this.#real, this.#imaginary];
    imaginary.fill(0);
    const bits = Math.log2(size);
    for (let i = 0; i < size; i++) {
      real[reversed(i, bits)] = (samples[start + i] ?? 0) * this.#window[i];
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let begin = 0; begin < size; begin += 2 * half) {
        for (let i = 0; i < half; i++) {
          const [low, high] = [begin + i, begin + i + half];
          const [cosine, sine] = [this.#cosines[i * stride], this.#sines[i * stride]];
          const re = real[high] * cosine - imaginary[high] * sine;
          const im = real[high] * sine + imaginary[high] * cosine;
          real[high] = real[low] - re;
          imaginary[high] = imaginary[low] - im;
          real[low] += re;
          imaginary[low] += im;
        }
      }
    }
    for (let i = 0; i < size / 2; i++) {
      powers[i] += real[i] ** 2 + imaginary[i] ** 2;
    }
  }
}

function reversed(value: number, bits: number): number {
  let result = 0;
  for (let bit = 0; bit < bits; bit++) {
    result |= ((value >> bit) & 1) << (bits - 1 - bit);
  }
  return result;
}
