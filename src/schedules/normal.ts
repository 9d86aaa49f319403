/** Evenly spaced in training time from the noisiest to the cleanest level: ComfyUI's `normal` (comfy/samplers.py). */
import type { Schedule } from './schedule.ts';
import { linspace } from './schedule.ts';

export const schedule: Schedule = {
  id: 'normal',
  points({ steps, time }) {
    return { sigmas: linspace(time.first, time.last, steps).map((at) => time.noiseAt(at)) };
  },
};
