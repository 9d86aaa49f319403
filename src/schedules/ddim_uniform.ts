/** Every k-th entry of the table, counted from the second cleanest: ComfyUI's `ddim_uniform`. There may be a few more than requested. */
import type { Schedule } from './schedule.ts';

export const schedule: Schedule = {
  id: 'ddim_uniform',
  points({ steps, table }) {
    const stride = Math.max(Math.floor(table.length / steps), 1);
    const count = Math.ceil((table.length - 1) / stride);
    return { sigmas: Array.from({ length: count }, (_, i) => table.sigmas[1 + i * stride]).reverse() };
  },
};
