/** Evenly spaced in training time from the noisiest to the cleanest level: ComfyUI's `normal` (comfy/samplers.py). */
import type { NoiseTable } from '../predictions/noise_table.ts';
import type { Schedule } from './schedule.ts';
import { linspace } from './schedule.ts';

export const schedule: Schedule = {
  id: 'normal',
  points({ steps, table }) {
    return { sigmas: linspace(table.length - 1, 0, steps).map((timestep) => sigmaLogAt(table, timestep)) };
  },
};

/** ComfyUI goes from timestep to σ linearly in log σ, unlike diffusers. */
function sigmaLogAt(table: NoiseTable, timestep: number): number {
  const low = Math.floor(timestep);
  const high = Math.ceil(timestep);
  const a = Math.log(table.sigmas[low]);
  const b = Math.log(table.sigmas[high]);
  return Math.exp(a + (b - a) * (timestep - low));
}
