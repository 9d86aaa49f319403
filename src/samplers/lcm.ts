/** Latent consistency models: the predicted picture, and fresh noise up to the next level. https://arxiv.org/abs/2310.04378, algorithm 3. */
import { stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'lcm',
  addsNoise: true,
  readsFlow: true,
  plan: ({ points, targets }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      return stepFrom(from, {
        x: 0,
        denoised: to.alpha,
        noise: { scale: to.sigma, from: from.noise, to: to.noise },
      });
    }),
    historyLength: 0,
  }),
};
