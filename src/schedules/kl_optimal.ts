/** Levels evenly spaced in arctan σ: the KL-optimal schedule of https://arxiv.org/abs/2404.14507, as in ComfyUI and AUTOMATIC1111. */
import type { Schedule } from './schedule.ts';
import { linspace } from './schedule.ts';

export const schedule: Schedule = {
  id: 'kl_optimal',
  points({ steps, range }) {
    return { sigmas: linspace(Math.atan(range.max), Math.atan(range.min), steps).map(Math.tan) };
  },
};
