/** Gradient estimation: Euler's method along a slope extrapolated from the previous one, γ = 2. https://arxiv.org/abs/2306.04848. */
import { multistep } from './multistep.ts';
import type { Sampler } from './sampler.ts';

/** γ − 1. */
const PUSH = 1;

export const sampler: Sampler = {
  id: 'gradient_estimation',
  plan: ({ points, targets }) =>
    multistep(points, targets, 2, (ratios, i, known) => {
      const length = ratios[i + 1] - ratios[i];
      return known === 1 ? [length] : [(1 + PUSH) * length, -PUSH * length];
    }),
};
