/** Refined exponential solver with ancestral steps and CFG++, as in ComfyUI. */
import { ancestral } from './ancestral.ts';
import { refinedWithCfgPp } from './res_multistep_cfg_pp.ts';
import { stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'res_multistep_ancestral_cfg_pp',
  addsNoise: true,
  readsNegative: true,
  plan: ({ points, targets, at }) => {
    const steps = points.map((from, i) => ancestral(from, targets[i], at));
    return {
      steps: points.map((from, i) =>
        stepFrom(from, {
          ...refinedWithCfgPp(points, i, steps[i].down, steps.at(i - 1)?.down),
          noise: steps[i].noise,
        }),
      ),
      historyLength: 1,
    };
  },
};
