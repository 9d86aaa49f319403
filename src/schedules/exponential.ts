/** Levels evenly spaced in ln σ: ComfyUI's and k-diffusion's `exponential`, diffusers' `use_exponential_sigmas`. */
import type { Schedule } from './schedule.ts';
import { linspace } from './schedule.ts';

export const schedule: Schedule = {
  id: 'exponential',
  points({ steps, range }) {
    return { sigmas: linspace(Math.log(range.max), Math.log(range.min), steps).map(Math.exp) };
  },
};
