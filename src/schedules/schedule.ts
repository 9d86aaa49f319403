/** The contract of schedules: a schedule chooses the noise levels that a sampler visits. */
import { StudioError } from '../core/errors.ts';
import type { NoiseTable } from '../predictions/noise_table.ts';

/** How a diffusers class places points on the training grid. */
export interface Grid {
  /** 1: it places one point more than there are steps and drops the least noisy one. */
  spare: 0 | 1;
  round(timestep: number): number;
  /** The number of timesteps that the network was distilled on, where a scheduler says. */
  distilledSteps?: number;
}

/** Training time in ComfyUI's units. */
export interface TrainingTime {
  /** Of the noisiest and the cleanest level. */
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
  /** How the sampler places points on the training grid. */
  grid: Grid;
  /** Added to every timestep of `leading`. */
  stepsOffset: number;
  /** Ends of schedules between two given levels; the table's own unless the checkpoint says otherwise. */
  range: { max: number; min: number };
}

/**
 * The points, noisiest first: either training timesteps, or noise levels σ > 0 without the final 0. There are `steps` of them, except for
 * schedules that cannot hit that number.
 */
export type Points = { timesteps: number[] } | { sigmas: number[] };

export interface Schedule {
  /** Equals the file's name: ComfyUI's id, or diffusers' `timestep_spacing`. */
  id: string;
  points(request: ScheduleRequest): Points;
}

/** Rounds to the nearest integer, halves to even, like numpy.round. */
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

/** Resamples descending values to `count`, evenly spaced and interpolated linearly in their logarithms. */
export function interpolated(levels: readonly number[], count: number): number[] {
  return linspace(0, levels.length - 1, count).map((place) => {
    const low = Math.min(Math.floor(place), levels.length - 2);
    const [a, b] = [Math.log(levels[low]), Math.log(levels[low + 1])];
    return Math.exp(a + (b - a) * (place - low));
  });
}

/** @throws StudioError `invalid_operation` if levels found for Stable Diffusion are requested for a flow */
export function requireTrainedLevels(schedule: string, isFlow: boolean): void {
  if (isFlow) {
    throw new StudioError(
      'invalid_operation',
      `The schedule ${schedule} holds noise levels of Stable Diffusion, which this kind of checkpoint does not have; choose another schedule.`,
    );
  }
}
