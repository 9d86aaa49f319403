/** Fourth-order linear multistep: integrates the polynomial through the known slopes over the step (Katherine Crowson, k-diffusion). */
import { multistep } from './multistep.ts';
import { integral, lagrange } from './quadrature.ts';
import type { Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'lms',
  ofDiffusers: true,
  plan: ({ points, targets, skipped, options: { polynomialThroughout = false } }) =>
    multistep(
      points,
      targets,
      4,
      (ratios, i, known) => {
        const nodes = Array.from({ length: known }, (_, k) => ratios[i - k]);
        return nodes.map((_, j) => integral((tau) => lagrange(nodes, j, tau), ratios[i], ratios[i + 1]));
      },
      polynomialThroughout ? { earlier: skipped, lands: false } : {},
    ),
};
