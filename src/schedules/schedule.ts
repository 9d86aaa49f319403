/** What a schedule is: it chooses the noise levels that a sampler visits. */
import type { NoiseTable } from '../predictions/noise_table.ts';

/** How a diffusers class lays points on the training grid. */
export interface Grid {
  /** 1: it lays one point more than there are steps and drops the least noisy one. */
  spare: 0 | 1;
  round(timestep: number): number;
}

export interface ScheduleRequest {
  steps: number;
  table: NoiseTable;
  /** How the sampler lays points on the training grid. */
  grid: Grid;
  /** Added to every timestep of `leading`. */
  stepsOffset: number;
  /** Ends for schedules that run between two given levels; the table's own unless the checkpoint asks otherwise. */
  range: { max: number; min: number };
}

/** `steps` points, the noisiest first: either training timesteps, or noise levels σ > 0 (the end, 0, is not among them). */
export type Points = { timesteps: number[] } | { sigmas: number[] };

export interface Schedule {
  /** Equals the file's name: ComfyUI's id, or diffusers' `timestep_spacing`. */
  id: string;
  points(request: ScheduleRequest): Points;
}

/** To the nearest whole number, halves to the even one, like numpy.round. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

/** numpy.linspace with both ends. */
export function linspace(start: number, end: number, n: number): number[] {
  const step = (end - start) / (n - 1);
  return Array.from({ length: n }, (_, i) => (i > 0 && i === n - 1 ? end : i === 0 ? start : start + i * step));
}
