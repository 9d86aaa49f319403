/** Levels evenly spaced in σ^(1/7): equation 5 of https://arxiv.org/abs/2206.00364. */
import type { Schedule } from './schedule.ts';
import { linspace } from './schedule.ts';

const RHO = 7;

export const schedule: Schedule = {
  id: 'karras',
  points({ steps, range }) {
    const max = range.max ** (1 / RHO);
    const min = range.min ** (1 / RHO);
    return { sigmas: linspace(0, 1, steps).map((ramp) => (max + ramp * (min - max)) ** RHO) };
  },
};
