/** Improved pseudo numerical methods with the actual step lengths, as in ComfyUI. https://arxiv.org/abs/2202.09778 */
import { multistep } from './multistep.ts';
import type { Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'ipndm_v',
  plan: ({ points, targets }) =>
    multistep(points, targets, 4, (ratios, i, known) => {
      const length = (k: number) => ratios[i - k + 1] - ratios[i - k];
      return variable(length(0), known > 1 ? length(1) : 0, known > 2 ? length(2) : 0, known > 3 ? length(3) : 0).map(
        (weight) => weight * length(0),
      );
    }),
};

/** Adams-Bashforth weights for steps of these lengths, the next step first; a length of 0 means no such step. */
function variable(h0: number, h1: number, h2: number, h3: number): number[] {
  if (h1 === 0) {
    return [1];
  }
  const r = h0 / h1;
  if (h2 === 0) {
    return [1 + r / 2, -r / 2];
  }
  const q = h1 / h2;
  const third = (1 - (h0 / (3 * (h0 + h1))) * ((h0 * (h0 + h1)) / (h1 * (h1 + h2)))) / 2;
  if (h3 === 0) {
    return [1 + r / 2 + third, -r / 2 - (1 + q) * third, third * q];
  }
  const fourth =
    (((1 - h0 / (3 * (h0 + h1))) / 2 + ((1 - h0 / (2 * (h0 + h1))) * h0) / (6 * (h0 + h1 + h2))) *
      (h0 * (h0 + h1) * (h0 + h1 + h2))) /
    (h1 * (h1 + h2) * (h1 + h2 + h3));
  const far = (h1 * (h1 + h2)) / (h2 * (h2 + h3));
  return [
    1 + r / 2 + third + fourth,
    -r / 2 - (1 + q) * third - (1 + q + far) * fourth,
    third * q + (q + far * (1 + h2 / h3)) * fourth,
    -fourth * far * q,
  ];
}
