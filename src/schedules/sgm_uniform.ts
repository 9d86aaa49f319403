/** Evenly spaced in training time from the noisiest level towards the cleanest, which is excluded: ComfyUI's `sgm_uniform`. */
import type { Schedule } from './schedule.ts';
import { linspace } from './schedule.ts';

export const schedule: Schedule = {
  id: 'sgm_uniform',
  points({ steps, time }) {
    const times = linspace(time.first, time.last, steps + 1).slice(0, -1);
    return { sigmas: times.map((at) => time.noiseAt(at)) };
  },
};
