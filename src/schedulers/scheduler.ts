/**
 * The contract of schedulers. A scheduler is a diffusers class, or ComfyUI's way of sampling a model, expressed as the choices it stands
 * for. A class may stand for several samplers, and several classes for one.
 */
import type { NoiseTable } from '../predictions/noise_table.ts';
import type { Level, Prediction } from '../predictions/prediction.ts';
import type { Grid, TrainingTime } from '../schedules/schedule.ts';
import type { SolverOptions } from '../samplers/sampler.ts';
import type { SchedulerConfig } from './config.ts';
import type { ModelSampling } from './model_sampling.ts';

/** A checkpoint's config as one scheduler reads it. */
export interface Choices {
  /** Id of the sampler that the config asks for. */
  sampler: string;
  options: SolverOptions;
  prediction: Prediction;
  /** `unit`: x is what the network is given. `full`: x holds the picture at full scale, x = x0 + σ · noise. */
  scale: 'unit' | 'full';
  table: NoiseTable;
  /** The checkpoint's own spacing. */
  spacing: string;
  /** That spacing's noise levels, if no schedule places them. */
  spaced?: (steps: number) => number[];
  stepsOffset: number;
  /**
   * The schedule between two levels that the checkpoint asks for, and its ends: those of the whole `table` or of the `spacing`. Null = the
   * spacing itself.
   */
  levels: { schedule: string; ends: 'table' | 'spacing' } | null;
  grid: Grid;
  /** Noise level after the last step of the checkpoint's own schedule; ComfyUI's schedules end at 0. */
  finalNoise: number;
  /** The timestep given to the network for a fractional position in the table. */
  timestepOf(position: number): number;
  /** The same for a noise level, where timesteps are no positions in a table. */
  timestepAt?: (noise: number) => number;
  /** Training time, for schedules that are evenly spaced in it; absent = positions in the table, linear in log σ. */
  time?: TrainingTime;
  /** Whether a schedule gets one extra step and then loses its penultimate level. */
  dropsPenultimate?: (schedule: string) => boolean;
  /** With a strength below 1, all requested steps run, as the end of a longer schedule. */
  keepsSteps?: boolean;
  /** Training timestep at which a step from `timestep` ends, where it need not be the next one, `following`; below 0 = at `finalNoise`. */
  targetOf?: (timestep: number, stride: number, following: number | undefined) => number;
  /** How the points are visited, where it is not simply in order. */
  visits?: <T>(points: readonly T[]) => T[];
  /** Whether so few steps call for a first-order last step. */
  endsInFirstOrder(steps: number, end: Level): boolean;
  /** Factor on the initial noise of a picture from noise alone. */
  initNoise(start: Level, spacing: string): number;
}

/** Whose implementation sampling follows. */
export type Convention = 'diffusers' | 'comfyui';

/** What a picture's size and its family add to a flow's config, as diffusers' pipelines pass it to their scheduler. */
export interface FlowCourse {
  /** The picture's number of tokens: the more, the further a dynamic shift goes towards noise. */
  tokens: number;
  steps: number;
  /** The formula of that shift: linear in the tokens between two sizes of the config, FLUX.2's, or the root of the tokens. */
  shift: 'linear' | 'empirical' | 'root';
  /** The least noisy level before the shift: one step's share, or training's smallest. */
  least: 'step' | 'trained';
  /** Id of the schedule whose levels are shifted, in place of even ones from noise to the least. */
  levels?: 'linear_quadratic';
  /** Whether of a given picture's share of the steps a part of one is left out, in place of run as a whole. */
  floors?: boolean;
  /** The levels themselves, noisiest first, without the final 0: taken as they are, shifted by nothing. */
  given?: readonly number[] | undefined;
  /** What ComfyUI's sampling takes in place of the config's shift. */
  modelSampling?: ModelSampling | null;
}

export interface Scheduler {
  /** The class named in scheduler_config.json; for ComfyUI's, which no configuration names, a name of our own. */
  className: string;
  /** Absent = diffusers'. */
  follows?: 'comfyui';
  /** Ids of the samplers it stands for; the default of an empty config first. */
  samplers: readonly string[];
  /** It samples flows; a checkpoint that names it cannot be sampled by the others. */
  isFlow?: true;
  /**
   * @param sampler one of `samplers`, if requested; undefined = as the config says
   * @param course of the picture, for a flow
   * @throws StudioError `checkpoint_unsupported` if the config asks for something that is not implemented
   */
  read(config: SchedulerConfig, sampler: string | undefined, course?: FlowCourse): Choices;
}

/** Defaults shared by most schedulers. */
export const USUAL_OPTIONS: SolverOptions = { order: 2, solverType: 'midpoint', firstOrderEnd: false };

/** A flow has no ᾱ, and what is read of its table are the levels. @param shift how levels are moved towards the noise */
export function flowTable(length: number, shift: (level: number) => number): NoiseTable {
  const sigmas = Float64Array.from({ length }, (_, i) => shift((i + 1) / length));
  return { length, alphasCumprod: sigmas.map((sigma) => (1 - sigma) ** 2), sigmas };
}
