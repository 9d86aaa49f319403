/**
 * Every k-th training timestep from 0 (plus an offset), as diffusers' `timestep_spacing: "leading"`.
 * Table 2 of https://arxiv.org/abs/2305.08891.
 */
import type { Schedule } from './schedule.ts';

export const schedule: Schedule = {
  id: 'leading',
  points({ steps, table, grid, stepsOffset }) {
    const n = steps + grid.spare;
    const ratio = Math.floor(table.length / n);
    return { timesteps: Array.from({ length: steps }, (_, i) => (n - 1 - i) * ratio + stepsOffset) };
  },
};
