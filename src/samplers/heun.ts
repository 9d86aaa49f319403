/** Heun's method on the probability flow: algorithm 1 of https://arxiv.org/abs/2206.00364. Two network calls per step, one at each end. */
import { along, stepFrom, type Sampler } from './sampler.ts';
import { alongSlopes, ratioOf, slope } from './slope.ts';

export const sampler: Sampler = {
  id: 'heun',
  ofDiffusers: true,
  plan: ({ points, targets }) => ({
    steps: points.flatMap((from, i) => {
      const to = targets[i];
      const there = along(from, to);
      if (to.sigma === 0) {
        return [stepFrom(from, there)];
      }
      const half = (ratioOf(to) - ratioOf(from)) / 2;
      const { x, denoised } = slope(to);
      return [
        stepFrom(from, { ...there, remember: alongSlopes(from, to, half) }),
        stepFrom(to, { x: to.alpha * half * x, denoised: to.alpha * half * denoised, history: [1] }),
      ];
    }),
    historyLength: 1,
  }),
};
