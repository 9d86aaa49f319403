/**
 * Second-order DPM-Solver++ for the stochastic differential equation, η = 1: https://arxiv.org/abs/2211.01095, using the picture predicted
 * at the midpoint in λ, as in k-diffusion. Two network calls per step.
 */
import { stepFrom, type Sampler } from './sampler.ts';
import { stochastic, withFiniteLambda } from './snr.ts';

const f = Math.fround;

/** Every operation in f32: the last bit decides where the Brownian motion is sampled. */
function halfway(from: number, to: number): number {
  return f(f(from) + f(f(f(to) - f(from)) / 2));
}

export const sampler: Sampler = {
  id: 'dpmpp_sde',
  addsNoise: true,
  drawsPath: true,
  readsFlow: true,
  plan: (course) => ({
    steps: withFiniteLambda(course).flatMap((from, i) => {
      const to = course.targets[i];
      if (to.sigma === 0) {
        return [stepFrom(from, { x: 0, denoised: to.alpha })];
      }
      const middle = course.atLambda(halfway(from.lambda, to.lambda));
      const { x, denoised, noise } = stochastic(from, to);
      return [
        stepFrom(from, { ...stochastic(from, middle), remember: { x: 1, denoised: 0 } }),
        stepFrom(middle, { x: 0, denoised, history: [x], noise }),
      ];
    }),
    historyLength: 1,
  }),
};
