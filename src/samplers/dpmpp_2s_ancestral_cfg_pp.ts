/** DPM-Solver++(2S) with ancestral steps and CFG++, as in ComfyUI: x moves by the change that guidance makes. Two network calls per step. */
import { ancestral, middleNoise } from './ancestral.ts';
import { halfLambda } from './dpmpp_2s_ancestral.ts';
import { renoised } from './euler_ancestral_cfg_pp.ts';
import { along, stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'dpmpp_2s_ancestral_cfg_pp',
  addsNoise: true,
  readsNegative: true,
  plan: ({ points, targets, at }) => ({
    steps: points.flatMap((from, i) => {
      const to = targets[i];
      if (to.sigma === 0) {
        return [stepFrom(from, renoised(from, to.alpha, 0))];
      }
      const { down, noise } = ancestral(from, to, at);
      const middle = at(middleNoise(from, to, halfLambda));
      const half = along(from, middle);
      const whole = along(from, down);
      return [
        stepFrom(from, {
          x: half.x,
          denoised: half.x * from.alpha + half.denoised,
          negative: -half.x * from.alpha,
          remember: { x: 1, denoised: from.alpha },
        }),
        // Guidance's change is measured against what the negative prompt predicts here, not at the start of the step.
        stepFrom(middle, {
          x: 0,
          denoised: whole.denoised,
          negative: -whole.x * from.alpha,
          history: [whole.x],
          noise,
        }),
      ];
    }),
    historyLength: 1,
  }),
};
