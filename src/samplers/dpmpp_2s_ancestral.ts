/**
 * DPM-Solver++(2S), https://arxiv.org/abs/2211.01095, algorithm 1, to a level below the next one, then fresh noise up to it, as in
 * k-diffusion. Two network calls per step.
 */
import { ancestral, middleNoise } from './ancestral.ts';
import { along, stepFrom, type Sampler } from './sampler.ts';

/** Midpoint of a step that starts in a flow's pure noise, where λ is infinite (ComfyUI). */
const AFTER_PURE_NOISE = 0.9999;

export const sampler: Sampler = {
  id: 'dpmpp_2s_ancestral',
  addsNoise: true,
  readsFlow: true,
  plan: ({ points, targets, at, atLambda }) => ({
    steps: points.flatMap((from, i) => {
      const to = targets[i];
      const { down, scale, noise } = ancestral(from, to, at);
      if (to.sigma === 0) {
        return [stepFrom(from, along(from, to))];
      }
      const end = Math.log(down.alpha / down.sigma);
      const isFlow = from.level.alpha !== 1;
      const middle = !isFlow
        ? at(middleNoise(from, to, halfLambda))
        : from.alpha === 0
          ? at(AFTER_PURE_NOISE)
          : atLambda((from.lambda + end) / 2);
      const { x, denoised } = along(from, down);
      return [
        stepFrom(from, { ...along(from, middle), remember: { x: 1, denoised: 0 } }),
        stepFrom(middle, { x: 0, denoised: scale * denoised, history: [scale * x], noise }),
      ];
    }),
    historyLength: 1,
  }),
};

const f = Math.fround;

/** Midpoint of two ln σ, computed as half a step in −ln σ. */
export function halfLambda(a: number, b: number): number {
  return -f(-a + f(0.5 * f(a - b)));
}
