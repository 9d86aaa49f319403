/**
 * Adaptive projected guidance (https://arxiv.org/abs/2410.02416) as ACE-Step has it: of what the words change, only what is orthogonal to the
 * prediction counts, each channel by itself, no longer than a limit, with a memory of the steps before.
 * Reference: diffusers/guiders/adaptive_projected_guidance.py
 */

const MOMENTUM = -0.75;
/** Of the change, along time. */
const LONGEST = 2.5;
const LEAST = 1e-12;

const f = Math.fround;

export class ProjectedGuidance {
  /** @param average what is remembered of the steps before, of all sounds; null = there were none */
  constructor(
    readonly scale: number,
    public average: Float32Array<ArrayBuffer> | null,
  ) {}

  /**
   * @param told predictions for the words, and
   * @param untold for nothing, each [channels, length] of one sound after another
   */
  mix(told: Float32Array<ArrayBuffer>, untold: Float32Array<ArrayBuffer>, length: number): Float32Array<ArrayBuffer> {
    const { average: before } = this;
    const change = told.map((value, i) => f(f(value - untold[i]) + (before ? f(MOMENTUM * before[i]) : 0)));
    this.average = change;
    const mixed = new Float32Array(told.length);
    for (let start = 0; start < told.length; start += length) {
      const [own, prediction] = [change, told].map((values) => values.subarray(start, start + length));
      const factor = f(Math.min(1, f(LONGEST / f(norm(own)))));
      const along = Math.max(norm(prediction), LEAST);
      let parallel = 0;
      for (let i = 0; i < length; i++) {
        parallel += f(own[i] * factor) * (prediction[i] / along);
      }
      for (let i = 0; i < length; i++) {
        const orthogonal = f(f(own[i] * factor) - parallel * (prediction[i] / along));
        mixed[start + i] = prediction[i] + f((this.scale - 1) * orthogonal);
      }
    }
    return mixed;
  }
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}
