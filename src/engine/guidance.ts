/** Guidance that the step kernel does not do, applied before it. */
import { guidance as rescaled } from '../guidance/guidance_rescale.ts';
import type { Arithmetic, DeviceTensor } from './arithmetic.ts';
import type { Prediction } from './sampling_loop.ts';

/** Guidance rescaled to the standard deviation of the conditional prediction. */
export class RescaledGuidance {
  readonly #mixed: DeviceTensor;

  /**
   * @param dims of the latents
   * @param amount of rescaling, above 0 and up to 1
   */
  constructor(
    readonly arithmetic: Arithmetic,
    readonly dims: readonly number[],
    readonly amount: number,
  ) {
    this.#mixed = arithmetic.empty(dims);
  }

  /** The prediction with guidance applied; unchanged without a negative prompt. */
  async apply(prediction: Omit<Prediction, 'noise'>): Promise<Omit<Prediction, 'noise'>> {
    const { uncond, cond, condOffset, guidance } = prediction;
    if (!uncond) {
      return prediction;
    }
    const count = this.dims.reduce((product, size) => product * size, 1);
    const both = { uncond, cond, condOffset, count };
    const moments = await this.arithmetic.moments(both, this.dims[0]);
    const weights = moments.map((one) => rescaled.weights(one, guidance, this.amount));
    this.arithmetic.guide(this.#mixed, both, weights);
    return { uncond, cond: this.#mixed, condOffset: 0, guidance: 1 };
  }

  dispose(): void {
    this.#mixed.dispose();
  }
}
