/**
 * Euler's method to a level below the next one, and fresh noise up to it: ancestral sampling as in equation 11 of
 * https://arxiv.org/abs/2010.02502 with η = 1, at full scale.
 */
import { along, stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'euler_ancestral',
  addsNoise: true,
  plan: ({ points, targets }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      const up = (to.sigma / from.sigma) * Math.sqrt(from.sigma ** 2 - to.sigma ** 2);
      const down = { alpha: to.alpha, sigma: to.sigma ** 2 / from.sigma };
      return stepFrom(from, { ...along(from, down), noise: { scale: up, from: from.noise, to: to.noise } });
    }),
    historyLength: 0,
  }),
};
