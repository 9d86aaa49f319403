/** DPM-Solver-2 to a level below the next one, then fresh noise up to it, as in k-diffusion. Two network calls per step. */
import { ancestral, middleNoise } from './ancestral.ts';
import { throughMiddle } from './dpm_2.ts';
import type { Sampler } from './sampler.ts';

const f = Math.fround;

export const sampler: Sampler = {
  id: 'dpm_2_ancestral',
  addsNoise: true,
  readsFlow: true,
  plan: ({ points, targets, at }) => ({
    steps: points.flatMap((from, i) => {
      const to = targets[i];
      const { down, scale, noise } = ancestral(from, to, at);
      const isFlow = from.level.alpha !== 1;
      const middle = at(
        isFlow ? Math.sqrt(from.sigma * down.sigma) : middleNoise(from, to, (a, b) => f(b - f(f(b - a) * 0.5))),
      );
      return throughMiddle(from, down, middle, scale, noise);
    }),
    historyLength: 1,
  }),
};
