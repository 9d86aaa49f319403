/**
 * Refined exponential solver with CFG++, as in ComfyUI: x moves by the change that guidance makes and continues from the negative prompt's
 * pictures.
 */
import type { Level } from '../predictions/prediction.ts';
import { renoised } from './euler_ancestral_cfg_pp.ts';
import { refined } from './res_multistep.ts';
import { stepFrom, type Move, type Point, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'res_multistep_cfg_pp',
  readsNegative: true,
  plan: ({ points, targets }) => ({
    steps: points.map((from, i) => stepFrom(from, refinedWithCfgPp(points, i, targets[i], targets.at(i - 1)))),
    historyLength: 1,
  }),
};

/** As {@link refined}. */
export function refinedWithCfgPp(points: readonly Point[], i: number, to: Level, before: Level | undefined): Move {
  const from = points[i];
  const remember = { x: 0, denoised: 0, negative: 1 };
  if (to.sigma === 0 || i === 0) {
    return { ...renoised(from, to.alpha, to.sigma), remember };
  }
  const { x, denoised, history } = refined(points, i, to, before);
  return { x, denoised: x * from.alpha, negative: denoised - x * from.alpha, history, remember };
}
