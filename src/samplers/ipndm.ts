/**
 * Improved pseudo numerical methods: Adams-Bashforth that treats all steps as equally long, https://arxiv.org/abs/2202.09778, without the
 * Runge-Kutta steps.
 */
import { multistep } from './multistep.ts';
import { ADAMS_BASHFORTH } from './plms.ts';
import type { Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'ipndm',
  plan: ({ points, targets }) =>
    multistep(points, targets, 4, (ratios, i, known) =>
      ADAMS_BASHFORTH[known - 1].map((weight) => weight * (ratios[i + 1] - ratios[i])),
    ),
};
