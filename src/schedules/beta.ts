/**
 * Entries of the table at quantiles of the beta distribution with α = β = 0.6, which is denser at both ends:
 * https://arxiv.org/abs/2407.12173, as in ComfyUI. Duplicates are dropped.
 */
import { betaQuantile } from './beta_distribution.ts';
import { roundHalfEven, type Schedule } from './schedule.ts';

const SHAPE = 0.6;

export const schedule: Schedule = {
  id: 'beta',
  points({ steps, table }) {
    const entries = Array.from({ length: steps }, (_, i) =>
      roundHalfEven(betaQuantile(1 - i / steps, SHAPE) * (table.length - 1)),
    );
    return { sigmas: [...new Set(entries)].map((entry) => table.sigmas[entry]) };
  },
};
