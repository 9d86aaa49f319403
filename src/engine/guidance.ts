/** Guidance that the step kernel does not do, applied before it. */
import { DEFAULT_GUIDANCE, type GuidanceRequest } from '../core/guidance.ts';
import type { Guidance } from '../guidance/guidance.ts';
import { rescaled } from '../guidance/guidance_rescale.ts';
import type { Arithmetic, DeviceTensor } from './arithmetic.ts';
import type { Prediction } from './sampling_loop.ts';

const METHODS = Object.values(
  import.meta.glob<Guidance>(['../guidance/*.ts', '!../guidance/guidance{,_rescale}.ts'], {
    eager: true,
    import: 'guidance',
  }),
);

/** Guidance by a method that looks at statistics of both predictions; null where the step kernel's own is asked for. */
export function statisticalGuidance(
  arithmetic: Arithmetic,
  dims: readonly number[],
  request: GuidanceRequest,
): StatisticalGuidance | null {
  const { guidance_method: id = DEFAULT_GUIDANCE.guidance_method, guidance_rescale: amount = 0 } = request;
  const method = METHODS.find((one) => one.id === id);
  return method && (amount > 0 || id !== DEFAULT_GUIDANCE.guidance_method)
    ? new StatisticalGuidance(arithmetic, dims, method, request)
    : null;
}

export class StatisticalGuidance {
  readonly #mixed: DeviceTensor;

  /** @param dims of the latents */
  constructor(
    readonly arithmetic: Arithmetic,
    readonly dims: readonly number[],
    readonly method: Guidance,
    readonly request: GuidanceRequest,
  ) {
    this.#mixed = arithmetic.empty(dims);
  }

  /** The prediction with guidance applied; unchanged without a negative prompt. */
  async apply(prediction: Omit<Prediction, 'noise'>): Promise<Omit<Prediction, 'noise'>> {
    const { uncond, cond, condOffset, guidance } = prediction;
    if (!uncond) {
      return prediction;
    }
    const { apg_eta = DEFAULT_GUIDANCE.apg_eta, apg_norm_threshold = DEFAULT_GUIDANCE.apg_norm_threshold } =
      this.request;
    const count = this.dims.reduce((product, size) => product * size, 1);
    const both = { uncond, cond, condOffset, count };
    const moments = await this.arithmetic.moments(both, this.dims[0]);
    const weights = moments.map((one) =>
      rescaled(
        one,
        this.method.weights(one, guidance, { apg_eta, apg_norm_threshold }),
        this.request.guidance_rescale ?? 0,
      ),
    );
    this.arithmetic.guide(this.#mixed, both, weights);
    return { uncond, cond: this.#mixed, condOffset: 0, guidance: 1 };
  }

  dispose(): void {
    this.#mixed.dispose();
  }
}
