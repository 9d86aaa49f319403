/**
 * What a scheduler is: a diffusers class, or the way in which ComfyUI samples a model, read as the choices that it means. Several samplers
 * may stand for one class, and one sampler may be reached through several.
 */
import type { NoiseTable } from '../predictions/noise_table.ts';
import type { Level, Prediction } from '../predictions/prediction.ts';
import type { Grid, TrainingTime } from '../schedules/schedule.ts';
import type { SolverOptions } from '../samplers/sampler.ts';
import type { SchedulerConfig } from './config.ts';

/** A checkpoint's config as one scheduler reads it. */
export interface Choices {
  /** Id of the sampler that the config asks for. */
  sampler: string;
  options: SolverOptions;
  prediction: Prediction;
  /** `unit`: x is what the network is given. `full`: x holds the picture at full scale, x = x0 + σ · noise. */
  scale: 'unit' | 'full';
  table: NoiseTable;
  /** The spacing that the checkpoint asks for. */
  spacing: string;
  /** The noise levels of that spacing, where no schedule lays them. */
  spaced?: (steps: number) => number[];
  stepsOffset: number;
  /**
   * A schedule that goes between two levels, where the checkpoint asks for one, and which ends it has: those of the whole `table`, or those
   * of its `spacing`. Null: it asks for its spacing.
   */
  levels: { schedule: string; ends: 'table' | 'spacing' } | null;
  grid: Grid;
  /** Noise level after the last step when the checkpoint's own way is followed; ComfyUI's schedules end at 0. */
  finalNoise: number;
  /** The timestep told to the network for a fractional position in the table. */
  timestepOf(position: number): number;
  /** The same by noise level, where that is no matter of positions in a table. */
  timestepAt?: (noise: number) => number;
  /** Training time for schedules that are laid in it; absent = positions in the table, linear in log σ. */
  time?: TrainingTime;
  /** Whether a schedule is laid with one step more, and its last level but one left out. */
  dropsPenultimate?: (schedule: string) => boolean;
  /** With a strength below 1 all requested steps are run, as the last ones of a longer schedule. */
  keepsSteps?: boolean;
  /** Training timestep at which a step from `timestep` ends, where it need not be the next one; below 0 = at `finalNoise`. */
  targetOf?: (timestep: number, stride: number) => number;
  /** How the points are visited, where it is not simply in order. */
  visits?: <T>(points: readonly T[]) => T[];
  /** Whether this many steps are so few that the last one is to be of the first order. */
  endsInFirstOrder(steps: number, end: Level): boolean;
  /** Factor of the noise that a picture from nothing starts from. */
  initNoise(start: Level, spacing: string): number;
}

/** Whose numbers a sampling follows. */
export type Convention = 'diffusers' | 'comfyui';

/** What a picture's size and its family add to the config of a flow, as diffusers' pipelines hand it to their scheduler. */
export interface FlowCourse {
  /** Tokens that the picture is cut into: the more, the longer a config that shifts dynamically stays at noisy levels. */
  tokens: number;
  steps: number;
  /** The law of that shift: linear in the tokens, between two sizes of the config, or FLUX.2's. */
  shift: 'linear' | 'empirical';
  /** The least noisy level before the shift: one step's share, or the smallest of training. */
  least: 'step' | 'trained';
}

export interface Scheduler {
  /** The class that a scheduler_config.json names; of ComfyUI's way, which no configuration names, a word of ours. */
  className: string;
  /** Absent = diffusers'. */
  follows?: 'comfyui';
  /** Ids of the samplers that it stands for, the one of a bare config first. */
  samplers: readonly string[];
  /** It samples flows; the others cannot sample a checkpoint that asks for it. */
  isFlow?: true;
  /**
   * @param sampler one of `samplers`, when somebody asks for it; undefined = as the config says
   * @param course of the picture, for a flow
   * @throws StudioError `checkpoint_unsupported` if the config asks for something that is not done here
   */
  read(config: SchedulerConfig, sampler: string | undefined, course?: FlowCourse): Choices;
}

/** What most schedulers choose. */
export const USUAL_OPTIONS: SolverOptions = { order: 2, solverType: 'midpoint', firstOrderEnd: false };
