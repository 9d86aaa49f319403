/**
 * Evenly spaced training timesteps starting with the last one, as diffusers' `timestep_spacing: "trailing"`.
 * Table 2 of https://arxiv.org/abs/2305.08891.
 */
import type { Schedule } from './schedule.ts';
import { roundHalfEven } from './schedule.ts';

export const schedule: Schedule = {
  id: 'trailing',
  points({ steps, table }) {
    // numpy.arange derives its step from the first two values, rounding included. For a few numbers of steps (61,
    // 103, 121, 122, …) that rounding makes it one value longer, and diffusers runs one step too many, at timestep −1;
    // that is not repeated here.
    const delta = table.length - table.length / steps - table.length;
    return { timesteps: Array.from({ length: steps }, (_, i) => roundHalfEven(table.length + i * delta) - 1) };
  },
};
