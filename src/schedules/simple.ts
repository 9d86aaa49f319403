/** Every k-th entry of the table, counted from the noisiest: ComfyUI's `simple` (comfy/samplers.py). */
import type { Schedule } from './schedule.ts';

export const schedule: Schedule = {
  id: 'simple',
  points({ steps, table }) {
    const stride = table.length / steps;
    const entry = (i: number) => table.sigmas[table.length - 1 - Math.floor(i * stride)];
    return { sigmas: Array.from({ length: steps }, (_, i) => entry(i)) };
  },
};
