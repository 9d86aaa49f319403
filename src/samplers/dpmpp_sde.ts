/**
 * DPM-Solver++ of second order for the stochastic differential equation, η = 1: https://arxiv.org/abs/2211.01095, by the predicted picture in the
 * middle of λ, as k-diffusion has it. Calls the network twice a step.
 */
import { stepFrom, type Sampler } from './sampler.ts';
import { stochastic, withFiniteLambda } from './snr.ts';

export const sampler: Sampler = {
  id: 'dpmpp_sde',
  addsNoise: true,
  readsFlow: true,
  plan: (course) => ({
    steps: withFiniteLambda(course).flatMap((from, i) => {
      const to = course.targets[i];
      if (to.sigma === 0) {
        return [stepFrom(from, { x: 0, denoised: to.alpha })];
      }
      const middle = course.atLambda((from.lambda + to.lambda) / 2);
      const { x, denoised, noise } = stochastic(from, to);
      return [
        stepFrom(from, { ...stochastic(from, middle), remember: { x: 1, denoised: 0 } }),
        stepFrom(middle, { x: 0, denoised, history: [x], noise }),
      ];
    }),
    historyLength: 1,
  }),
};
