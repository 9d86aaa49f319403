/** Second-order refined exponential solver to a level below the next one, then fresh noise up to it, as in ComfyUI. */
import { ancestral } from './ancestral.ts';
import { refined } from './res_multistep.ts';
import { PICTURE, stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'res_multistep_ancestral',
  addsNoise: true,
  plan: ({ points, targets, at }) => {
    const steps = points.map((from, i) => ancestral(from, targets[i], at));
    return {
      steps: points.map((from, i) =>
        stepFrom(from, {
          ...refined(points, i, steps[i].down, steps.at(i - 1)?.down),
          noise: steps[i].noise,
          remember: PICTURE,
        }),
      ),
      historyLength: 1,
    };
  },
};
