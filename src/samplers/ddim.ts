/** Denoising diffusion implicit models with η = 0: https://arxiv.org/abs/2010.02502, equation 12. */
import { along, stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'ddim',
  ofDiffusers: true,
  plan: ({ points, targets }) => ({
    // It differs from Euler's only in the level that diffusers aims for, which the course decides.
    steps: points.map((point, i) => stepFrom(point, along(point, targets[i]))),
    historyLength: 0,
  }),
};
