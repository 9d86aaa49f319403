/** What a schedule is: it chooses the noise levels that a sampler visits. */
import { StudioError } from '../core/errors.ts';
import type { NoiseTable } from '../predictions/noise_table.ts';

/** How a diffusers class lays points on the training grid. */
export interface Grid {
  /** 1: it lays one point more than there are steps and drops the least noisy one. */
  spare: 0 | 1;
  round(timestep: number): number;
}

/** Training time as ComfyUI counts it. */
export interface TrainingTime {
  /** Of the noisiest and of the cleanest level. */
  first: number;
  last: number;
  noiseAt(time: number): number;
}

export interface ScheduleRequest {
  steps: number;
  table: NoiseTable;
  /** Whether the levels are those of a flow, from 1 to 0. */
  isFlow: boolean;
  time: TrainingTime;
  /** How the sampler lays points on the training grid. */
  grid: Grid;
  /** Added to every timestep of `leading`. */
  stepsOffset: number;
  /** Ends for schedules that run between two given levels; the table's own unless the checkpoint asks otherwise. */
  range: { max: number; min: number };
}

/**
 * The points, the noisiest first: either training timesteps, or noise levels σ > 0 (the end, 0, is not among them). `steps` of them, but for schedules
 * that can only count otherwise.
 */
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

/** `count` values at even places along falling ones, linear in their logarithms. */
export function interpolated(levels: readonly number[], count: number): number[] {
  return linspace(0, levels.length - 1, count).map((place) => {
    const low = Math.min(Math.floor(place), levels.length - 2);
    const [a, b] = [Math.log(levels[low]), Math.log(levels[low + 1])];
    return Math.exp(a + (b - a) * (place - low));
  });
}

/** @throws StudioError `invalid_operation` where levels found for Stable Diffusion are asked for a flow */
export function requireTrainedLevels(schedule: string, isFlow: boolean): void {
  if (isFlow) {
    throw new StudioError(
      'invalid_operation',
      `The schedule ${schedule} holds noise levels of Stable Diffusion, which this kind of checkpoint does not have; choose another schedule.`,
    );
  }
}
