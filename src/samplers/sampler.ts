/**
 * What a sampler is. Deterministic samplers are linear combinations of the buffers at hand, so a sampler yields numbers:
 * one {@link Step} per network call. `apply.ts` carries them out on arrays, one WGSL kernel on the GPU.
 */
import type { NoiseTable, Prediction, SchedulerConfig } from './config.ts';

/** Weights of the current latents `x` and of the guided network output `m`. */
export interface Pair {
  x: number;
  model: number;
}

/**
 * One call of the network:
 *
 *     m  = network(inputScale · x, timestep), after guidance
 *     x0 = denoised.x · x + denoised.model · m                          the predicted picture, for previews
 *     x' = next.x · x + next.model · m + Σ next.history[k] · H[k]       H[0] is what was remembered last
 *     if shift: H moves up by one, and H[0] = remember.x · x + remember.model · m
 */
export interface Step {
  /** Position in training time, from 0; not always whole (Euler). */
  timestep: number;
  /** Noise level at the start of the step, as a multiple of the picture's own scale (σ = √(1−ᾱ)/√ᾱ). */
  sigma: number;
  inputScale: number;
  denoised: Pair;
  /** `history` has at most `historyLength` entries; places beyond its end are not read. */
  next: Pair & { history: number[] };
  shift: boolean;
  remember: Pair;
}

/** x = image · latents + noise · noise */
export interface NoiseMix {
  image: number;
  noise: number;
}

/** The part of a plan that the sampler itself decides. */
export interface StepPlan {
  /** x at the start = initNoise · noise, for a picture from nothing. */
  initNoise: number;
  /** In order; with a strength below 1 only those that are left. */
  steps: Step[];
  /** Number of buffers H, each of the latents' size. */
  historyLength: number;
  /** Latents as noisy as before step `i` of `steps`; `i = steps.length` is the clean image. */
  addNoise(i: number): NoiseMix;
}

export interface SamplerPlan extends StepPlan {
  /** Ids of the sampler and of the schedule in use. */
  sampler: string;
  schedule: string;
}

/** The noise levels to go through, as a schedule laid them for one sampler. */
export interface Path {
  /** One per requested step. */
  timesteps: readonly number[];
  /** One more than `timesteps`: the last is the level after the last step. */
  sigmas: readonly number[];
  /** Whether the points were chosen as training timesteps (and not as noise levels). */
  onGrid: boolean;
  /** The spacing in force; beside given noise levels, the one of the checkpoint or of the diffusers class. */
  spacing: string;
}

/** How a diffusers class lays points on the training grid. */
export interface Grid {
  /** 1: it lays one point more than there are steps and drops the least noisy one. */
  spare: 0 | 1;
  round(timestep: number): number;
}

/** A sampler that has read a checkpoint's scheduler_config.json. */
export interface PreparedSampler {
  table: NoiseTable;
  /** The spacing that the checkpoint asks for. */
  spacing: string;
  stepsOffset: number;
  /**
   * Whether the checkpoint asks for Karras levels, and between which ends: those of the whole `table`, or those of its
   * `spacing`. Null: it does not.
   */
  karras: 'table' | 'spacing' | null;
  grid: Grid;
  /** Level after the last step when the checkpoint's own way is followed; ComfyUI's schedules end at 0. */
  finalSigma: number;
  /** The timestep told to the network for a fractional position in the table. */
  timestepOf(position: number): number;
  /**
   * @param first index of the first step to run: above 0 when a given picture is only partly repainted
   * @throws StudioError `invalid_operation` if this path makes no sense for the sampler
   */
  plan(path: Path, first: number): StepPlan;
}

export interface Sampler {
  /** Equals the file's name; ComfyUI's id where it has one. */
  id: string;
  /** The diffusers class that it stands for: a checkpoint that names this class gets this sampler. */
  diffusersClass: string;
  /** @throws StudioError `checkpoint_unsupported` if the config asks for something that this sampler does not do */
  prepare(config: SchedulerConfig): PreparedSampler;
}

/**
 * x0 from x and the network's output, at signal level `alpha` and noise level `sigma` (alpha² + sigma² = 1).
 * See §2.4 of https://arxiv.org/abs/2210.02303 for v.
 */
export function denoisedFrom(prediction: Prediction, alpha: number, sigma: number): Pair {
  return {
    epsilon: { x: 1 / alpha, model: -sigma / alpha },
    v_prediction: { x: alpha, model: -sigma },
    sample: { x: 0, model: 1 },
  }[prediction];
}

/** The predicted noise from x and the network's output; levels as in {@link denoisedFrom}. */
export function noiseFrom(prediction: Prediction, alpha: number, sigma: number): Pair {
  return {
    epsilon: { x: 0, model: 1 },
    v_prediction: { x: sigma, model: alpha },
    sample: { x: 1 / sigma, model: -alpha / sigma },
  }[prediction];
}
