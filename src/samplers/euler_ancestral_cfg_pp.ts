/** CFG++ with ancestral steps: https://arxiv.org/abs/2406.08070. A step retains the noise that the negative prompt predicts. */
import { stepFrom, type Point, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'euler_ancestral_cfg_pp',
  addsNoise: true,
  readsFlow: true,
  readsNegative: true,
  plan: ({ points, targets }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      if (to.sigma === 0) {
        return stepFrom(from, { x: 0, denoised: to.alpha });
      }
      const share = to.sigma / to.alpha / (from.sigma / from.alpha);
      const up = to.sigma * Math.sqrt(1 - share ** 2);
      return stepFrom(from, {
        ...renoised(from, to.alpha, to.sigma * share),
        noise: { scale: up, from: from.noise, to: to.noise },
      });
    }),
    historyLength: 0,
  }),
};

/** The predicted picture plus `sigma` times the noise that the negative prompt sees in x. */
export function renoised(from: Point, alpha: number, sigma: number): { x: number; denoised: number; negative: number } {
  const x = sigma / from.sigma;
  return { x, denoised: alpha, negative: -from.alpha * x };
}
