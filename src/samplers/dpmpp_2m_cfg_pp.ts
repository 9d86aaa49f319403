/** DPM-Solver++(2M) with CFG++, as in ComfyUI: the retained noise and the slope are those of the negative prompt. */
import { renoised } from './euler_ancestral_cfg_pp.ts';
import { stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'dpmpp_2m_cfg_pp',
  readsNegative: true,
  plan: ({ points, targets }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      const { x, denoised, negative } = renoised(from, to.alpha, to.sigma);
      const remember = { x: 0, denoised: 0, negative: 1 };
      if (i === 0 || to.sigma === 0) {
        return stepFrom(from, { x, denoised, negative, remember });
      }
      const h = to.lambda - from.lambda;
      const ratio = (from.lambda - points[i - 1].lambda) / h;
      const slope = (to.alpha * -Math.expm1(-h)) / (2 * ratio);
      return stepFrom(from, { x, denoised: denoised + slope, negative, history: [-slope], remember });
    }),
    historyLength: 1,
  }),
};
