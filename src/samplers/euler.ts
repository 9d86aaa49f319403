/** Euler's method on the probability flow: algorithm 1 (without churn) of https://arxiv.org/abs/2206.00364. */
import { along, stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'euler',
  ofDiffusers: true,
  plan: ({ points, targets }) => ({
    steps: points.map((point, i) => stepFrom(point, along(point, targets[i]))),
    historyLength: 0,
  }),
};
