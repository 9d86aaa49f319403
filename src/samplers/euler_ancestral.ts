/** Euler's method to a level below the next one, then fresh noise up to it. */
import { ancestral } from './ancestral.ts';
import { along, stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'euler_ancestral',
  ofDiffusers: true,
  addsNoise: true,
  readsFlow: true,
  plan: ({ points, targets, at }) => ({
    steps: points.map((from, i) => {
      const { down, scale, noise } = ancestral(from, targets[i], at);
      const { x, denoised } = along(from, down);
      return stepFrom(from, { x: scale * x, denoised: scale * denoised, noise });
    }),
    historyLength: 0,
  }),
};
