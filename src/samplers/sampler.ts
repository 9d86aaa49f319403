/**
 * The contract of samplers. A sampler only ever combines the available buffers linearly, so it yields numbers: one {@link Step} per network
 * call. `apply.ts` executes them on arrays, one WGSL kernel on the GPU.
 */
import type { Level, Pair } from '../predictions/prediction.ts';

/** Weights of a step's operands. */
export interface Weights extends Pair {
  /** Of the network's output for the negative prompt alone; without guidance, of its only output. */
  negative: number;
  /** Of the history, latest first, at most `historyLength`; missing entries count as 0. */
  history: number[];
}

/** The fresh noise of a step. */
export interface StepNoise {
  scale: number;
  /** Noise levels before and after the step: the noise is the Brownian path's increment between them. */
  from: number;
  to: number;
}

/**
 * One network call. A sampler that makes several between two levels has one step for each, so that sampling can resume after any of them.
 *
 *     u, m = network(inputScale · x, timestep): for the negative prompt, and after guidance
 *     x0   = denoised.x · x + denoised.model · m                  the predicted picture, for previews
 *     x'   = next(x, m, u, H) + noise.scale · ξ                   ξ is standard normal noise
 *     if shift: H moves up by one, and H[0] = remember(x, m, u, H)
 *     where w(x, m, u, H) = w.x · x + w.model · m + w.negative · u + Σ w.history[k] · H[k]   H[0] is the latest entry
 */
export interface Step {
  /** Position in training time, from 0; may be fractional (Euler). */
  timestep: number;
  /** The level of x before the step. */
  level: Level;
  inputScale: number;
  denoised: Pair;
  next: Weights;
  noise: StepNoise | null;
  shift: boolean;
  remember: Weights;
}

/**
 * A point at which the network is called. Samplers compute with `alpha`, `sigma` and `lambda`; on a flow, a sampler that does not declare
 * `flow` sees those of a picture at full scale (alpha 1, the flow's sigma).
 */
export interface Point extends Level {
  /** The actual level of x there. */
  level: Level;
  /** The schedule's noise level: sigma / alpha, or the sigma of a flow. */
  noise: number;
  timestep: number;
  inputScale: number;
  /** x0 from x and the network's output. */
  denoised: Pair;
  /** ln(alpha / sigma), half the logarithm of the signal-to-noise ratio. */
  lambda: number;
}

/** Choices within an algorithm that diffusers' configs make. */
export interface SolverOptions {
  order: 1 | 2;
  solverType: 'midpoint' | 'heun';
  /** Whether the last step is always first-order. */
  firstOrderEnd: boolean;
  /**
   * LMS: the polynomial also makes the step to the picture itself, and goes through the points that a strength left out, whose slopes are taken
   * for 0.
   */
  polynomialThroughout?: true;
  /** UniPC: its order, and where the way ends in place of a level without noise (0 = there). Absent = as ComfyUI. */
  unified?: { order: 1 | 2 | 3; lastNoise: number };
  /** LCM: factor of the timestep in the boundary condition of the consistency model; absent = it is left out. */
  timestepScaling?: number;
}

/** The path from noise to picture that a sampler makes steps for. */
export interface Course {
  /** In order; with a strength below 1, only the remaining ones. */
  points: readonly Point[];
  /** Where the step from each point ends. */
  targets: readonly Point[];
  /** Those before `points` that a strength left out, in order. */
  skipped: readonly Point[];
  /** The points as training timesteps, where they were chosen as such: `stride` of them apart; null = chosen as noise levels. */
  grid: { stride: number } | null;
  options: SolverOptions;
  /** The point at a noise level above 0, for samplers that call the network between the schedule's levels. */
  at: (noise: number) => Point;
  /** The same by a whole training timestep; below 0 = where the way ends. */
  atTimestep: (timestep: number) => Point;
  /** The same by its `lambda`. */
  atLambda: (lambda: number) => Point;
  /** The noise level at a fraction of training time, 0 being the noisiest end. */
  noiseAfter: (share: number) => number;
}

export interface SolverPlan {
  steps: Step[];
  /** Number of buffers H, each of the latents' size; at most {@link LONGEST_HISTORY}. */
  historyLength: number;
}

/** Number of history buffers that the kernel supports. */
export const LONGEST_HISTORY = 4;

export interface Sampler {
  /** Equals the file's name; ComfyUI's id where it has one. */
  id: string;
  /** Its steps add fresh noise, so the picture also depends on where that noise comes from. */
  addsNoise?: true;
  /** diffusers has a class for it too, which is followed unless ComfyUI is asked for. */
  ofDiffusers?: true;
  /** Its noise comes from a Brownian motion over the noise levels, as in other tools. */
  drawsPath?: true;
  /** It computes with a flow's own alpha and sigma, x = (1 − σ) · x0 + σ · noise. */
  readsFlow?: true;
  /** It uses the network's output for the negative prompt alone, which is therefore always computed. */
  readsNegative?: true;
  /** @throws StudioError `invalid_operation` if the sampler cannot follow this course */
  plan(course: Course): SolverPlan;
}

/** The part of a plan that is executed. */
export interface SamplerPlan extends SolverPlan {
  /** Ids of the sampler and the schedule in use. */
  sampler: string;
  schedule: string;
  /** Whose implementation they follow. */
  follows: 'diffusers' | 'comfyui';
  /** For a picture from noise alone, x starts as initNoise · noise. */
  initNoise: number;
  /** The lowest noise level above 0 and the highest, for samplers that draw from a Brownian motion; null for others. */
  range: { least: number; greatest: number } | null;
  /** How much of a given picture and of noise x starts with. */
  start: Level;
  /** Adds the noise of step `i`'s start to latents; `i = steps.length` leaves the clean picture. */
  addNoise(i: number): Level;
}

/** Weights of x, of the predicted picture x0, of the picture predicted for the negative prompt alone, and of the history. */
export interface Mix {
  x: number;
  denoised: number;
  negative?: number;
  history?: number[];
}

/** A step in these terms. */
export interface Move extends Mix {
  noise?: StepNoise | null;
  /** Absent = the history is left alone. */
  remember?: Mix;
}

export function stepFrom(point: Point, { noise = null, remember, ...next }: Move): Step {
  const { timestep, inputScale, level } = point;
  const weights = ({ x, denoised, negative = 0, history = [] }: Mix): Weights => ({
    x: x + (denoised + negative) * point.denoised.x,
    model: denoised * point.denoised.model,
    negative: negative * point.denoised.model,
    history,
  });
  return {
    timestep,
    level,
    inputScale,
    denoised: point.denoised,
    next: weights(next),
    noise: noise && noise.scale > 0 ? noise : null,
    shift: remember !== undefined,
    remember: weights(remember ?? { x: 0, denoised: 0 }),
  };
}

/** The history entry of samplers that continue from earlier predicted pictures. */
export const PICTURE: Mix = { x: 0, denoised: 1 };

/** A step between two levels along the predicted noise: x' = (σ'/σ) · x + (α' − α · σ'/σ) · x0. */
export function along(from: Level, to: Level): { x: number; denoised: number } {
  const x = to.sigma / from.sigma;
  return { x, denoised: to.alpha - from.alpha * x };
}
