/** Levels along a power of ln σ, which k-diffusion, and the tools that have it, leave at 1: then it is `exponential`. */
import type { Schedule } from './schedule.ts';
import { linspace } from './schedule.ts';

const RHO = 1;

export const schedule: Schedule = {
  id: 'polyexponential',
  points({ steps, range }) {
    const [low, high] = [Math.log(range.min), Math.log(range.max)];
    return { sigmas: linspace(1, 0, steps).map((ramp) => Math.exp(ramp ** RHO * (high - low) + low)) };
  },
};
