/**
 * Evenly spaced training timesteps with both ends, as diffusers' `timestep_spacing: "linspace"`.
 * Table 2 of https://arxiv.org/abs/2305.08891.
 */
import type { Schedule } from './schedule.ts';
import { linspace } from './schedule.ts';

export const schedule: Schedule = {
  id: 'linspace',
  points({ steps, table, grid }) {
    const ascending = linspace(0, table.length - 1, steps + grid.spare).map((timestep) => grid.round(timestep));
    return { timesteps: ascending.reverse().slice(0, steps) };
  },
};
