/** DDPM's ancestral sampling with the smaller of its two variances: https://arxiv.org/abs/2006.11239, equations 6 and 7. */
import { ancestral } from './ancestral.ts';
import { along, stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'ddpm',
  addsNoise: true,
  plan: ({ points, targets, at }) => ({
    // At full scale the posterior's mean is Euler's step to the ancestral level; its variance is the noise added from there.
    steps: points.map((from, i) => {
      const { down, noise } = ancestral(from, targets[i], at);
      return stepFrom(from, { ...along(from, down), noise });
    }),
    historyLength: 0,
  }),
};
