/**
 * Trajectory consistency distillation, strategic stochastic sampling: https://arxiv.org/abs/2402.19159, algorithm 4. Each step goes beyond its target along
 * the predicted noise, and back by fresh noise.
 */
import { along, stepFrom, type Sampler } from './sampler.ts';

/** γ of the paper, `eta` of diffusers' step: how far beyond, as a share of the target's timestep. */
const GAMMA = 0.3;

export const sampler: Sampler = {
  id: 'tcd',
  addsNoise: true,
  ofDiffusers: true,
  plan: ({ points, targets, atTimestep }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      if (i === points.length - 1) {
        return stepFrom(from, along(from, to));
      }
      const beyond = atTimestep(Math.floor((1 - GAMMA) * to.timestep));
      // Noise levels between two timesteps may be cleaner than the timestep that they are rounded to.
      const back = Math.min(1, to.alpha / beyond.alpha);
      const { x, denoised } = along(from, beyond);
      return stepFrom(from, {
        x: back * x,
        denoised: back * denoised,
        noise: { scale: Math.sqrt(1 - back * back), from: from.noise, to: to.noise },
      });
    }),
    historyLength: 0,
  }),
};
