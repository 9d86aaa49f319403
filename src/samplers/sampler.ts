/**
 * What a sampler is. Every sampler here is a linear combination of the buffers at hand, so it yields numbers: one {@link Step} per network
 * call. `apply.ts` carries them out on arrays, one WGSL kernel on the GPU.
 */
import type { Level, Pair } from '../predictions/prediction.ts';

/** Fresh noise in a step. */
export interface StepNoise {
  scale: number;
  /** Noise levels that the step leads from and to: a Brownian path is asked for its increment between them. */
  from: number;
  to: number;
}

/**
 * One call of the network:
 *
 *     m  = network(inputScale · x, timestep), after guidance
 *     x0 = denoised.x · x + denoised.model · m                          the predicted picture, for previews
 *     x' = next.x · x + next.model · m + Σ next.history[k] · H[k]       H[0] is what was remembered last
 *          + noise.scale · ξ                                            ξ is standard normal noise
 *     if shift: H moves up by one, and H[0] = remember.x · x + remember.model · m
 */
export interface Step {
  /** Position in training time, from 0; not always whole (Euler). */
  timestep: number;
  /** What x holds before the step. */
  level: Level;
  inputScale: number;
  denoised: Pair;
  /** `history` has at most `historyLength` entries; places beyond its end are not read. */
  next: Pair & { history: number[] };
  noise: StepNoise | null;
  shift: boolean;
  remember: Pair;
}

/** Where the network is called. */
export interface Point extends Level {
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
  /** Whether the last step is of the first order, whatever comes before. */
  firstOrderEnd: boolean;
}

/** The way from noise to picture that the steps are asked for. */
export interface Course {
  /** In order. With a strength below 1 only those that are left. */
  points: readonly Point[];
  /** Where the step from each point ends. */
  targets: readonly Point[];
  /** The points as training timesteps, where they were chosen as such: `stride` of them apart; null = chosen as noise levels. */
  grid: { stride: number; at(timestep: number): Point } | null;
  options: SolverOptions;
}

export interface SolverPlan {
  steps: Step[];
  /** Number of buffers H, each of the latents' size; at most {@link LONGEST_HISTORY}. */
  historyLength: number;
}

/** How many buffers the kernel knows. */
export const LONGEST_HISTORY = 4;

export interface Sampler {
  /** Equals the file's name; ComfyUI's id where it has one. */
  id: string;
  /** Its steps add fresh noise, so the picture depends on who draws that, too. */
  addsNoise?: true;
  /** @throws StudioError `invalid_operation` if this course makes no sense for the sampler */
  plan(course: Course): SolverPlan;
}

/** The part of a plan that is run. */
export interface SamplerPlan extends SolverPlan {
  /** Ids of the sampler and of the schedule in use. */
  sampler: string;
  schedule: string;
  /** x at the start = initNoise · noise, for a picture from nothing. */
  initNoise: number;
  /** Latents as noisy as before step `i` of `steps`; `i = steps.length` is the clean picture. */
  addNoise(i: number): Level;
}

/** A step in terms of x, the predicted picture x0 and what was remembered. */
export interface Move {
  x: number;
  denoised: number;
  history?: number[];
  noise?: StepNoise | null;
  /** Of x and x0; left out = nothing is remembered. */
  remember?: { x: number; denoised: number };
}

export function stepFrom(point: Point, { x, denoised, history = [], noise = null, remember }: Move): Step {
  const { timestep, inputScale, alpha, sigma } = point;
  const pair = (ofX: number, ofDenoised: number): Pair => ({
    x: ofX + ofDenoised * point.denoised.x,
    model: ofDenoised * point.denoised.model,
  });
  return {
    timestep,
    level: { alpha, sigma },
    inputScale,
    denoised: point.denoised,
    next: { ...pair(x, denoised), history },
    noise: noise && noise.scale > 0 ? noise : null,
    shift: remember !== undefined,
    remember: remember ? pair(remember.x, remember.denoised) : { x: 0, model: 0 },
  };
}

/** From one level to another along the predicted noise: x' = (σ'/σ) · x + (α' − α · σ'/σ) · x0. */
export function along(from: Level, to: Level): { x: number; denoised: number } {
  const x = to.sigma / from.sigma;
  return { x, denoised: to.alpha - from.alpha * x };
}
