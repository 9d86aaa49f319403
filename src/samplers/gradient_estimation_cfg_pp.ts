/** Gradient estimation with CFG++, as in ComfyUI: the slopes are those of the negative prompt. https://arxiv.org/abs/2306.04848 */
import { renoised } from './euler_ancestral_cfg_pp.ts';
import { stepFrom, type Sampler } from './sampler.ts';
import { ratioOf, slope } from './slope.ts';

export const sampler: Sampler = {
  id: 'gradient_estimation_cfg_pp',
  readsNegative: true,
  plan: ({ points, targets }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      const { x, denoised } = slope(from);
      const remember = { x, denoised: 0, negative: denoised };
      const step = renoised(from, to.alpha, to.sigma);
      if (i === 0 || to.sigma === 0) {
        return stepFrom(from, { ...step, remember });
      }
      const length = to.alpha * (ratioOf(to) - ratioOf(from));
      return stepFrom(from, {
        x: step.x + length * x,
        denoised: step.denoised,
        negative: step.negative + length * denoised,
        history: [-length],
        remember,
      });
    }),
    historyLength: 1,
  }),
};
