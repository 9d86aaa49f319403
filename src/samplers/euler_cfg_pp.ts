/** CFG++ with Euler's method: https://arxiv.org/abs/2406.08070, algorithm 1. */
import { renoised } from './euler_ancestral_cfg_pp.ts';
import { stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'euler_cfg_pp',
  readsFlow: true,
  readsNegative: true,
  plan: ({ points, targets }) => ({
    steps: points.map((from, i) => stepFrom(from, renoised(from, targets[i].alpha, targets[i].sigma))),
    historyLength: 0,
  }),
};
