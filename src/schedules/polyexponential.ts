/** Levels along a power of ln σ. k-diffusion and the tools that offer it leave the power at 1, which makes it `exponential`. */
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
