/**
 * What a sampler is. Every sampler here is a linear combination of the buffers at hand, so it yields numbers: one {@link Step} per network
 * call. `apply.ts` carries them out on arrays, one WGSL kernel on the GPU.
 */
import type { Level, Pair } from '../predictions/prediction.ts';

/** Weights of what a step has at hand. */
export interface Weights extends Pair {
  /** Of the network's output for the negative prompt alone; without guidance that is its only output. */
  negative: number;
  /** Of what was remembered, the latest first; places beyond its end count as 0. At most `historyLength` entries. */
  history: number[];
}

/** Fresh noise in a step. */
export interface StepNoise {
  scale: number;
  /** Noise levels that the step leads from and to: a Brownian path is asked for its increment between them. */
  from: number;
  to: number;
}

/**
 * One call of the network. A sampler that calls it several times on the way from one level to the next has one of these for each call, so
 * that sampling can be taken up after any of them.
 *
 *     u, m = network(inputScale · x, timestep): for the negative prompt, and after guidance
 *     x0   = denoised.x · x + denoised.model · m                  the predicted picture, for previews
 *     x'   = next(x, m, u, H) + noise.scale · ξ                   ξ is standard normal noise
 *     if shift: H moves up by one, and H[0] = remember(x, m, u, H)
 *     where w(x, m, u, H) = w.x · x + w.model · m + w.negative · u + Σ w.history[k] · H[k]   H[0] is what was remembered last
 */
export interface Step {
  /** Position in training time, from 0; not always whole (Euler). */
  timestep: number;
  /** What x holds before the step. */
  level: Level;
  inputScale: number;
  denoised: Pair;
  next: Weights;
  noise: StepNoise | null;
  shift: boolean;
  remember: Weights;
}

/**
 * Where the network is called. A sampler reckons with `alpha`, `sigma` and `lambda`; on a flow they are those of a picture at full scale (alpha
 * 1, sigma as on the flow) for a sampler that does not read flows.
 */
export interface Point extends Level {
  /** What x really holds there. */
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
  /** The point at a noise level above 0, for samplers that call the network between those of the schedule. */
  at: (noise: number) => Point;
  /** The same by its `lambda`. */
  atLambda: (lambda: number) => Point;
  /** The noise level after a share of training time, 0 being the noisiest end. */
  noiseAfter: (share: number) => number;
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
  /** It reckons with the shares of picture and noise of a flow, x = (1 − σ) · x0 + σ · noise. */
  readsFlow?: true;
  /** It reads the network's output for the negative prompt alone, so that is always computed. */
  readsNegative?: true;
  /** @throws StudioError `invalid_operation` if this course makes no sense for the sampler */
  plan(course: Course): SolverPlan;
}

/** The part of a plan that is run. */
export interface SamplerPlan extends SolverPlan {
  /** Ids of the sampler and of the schedule in use. */
  sampler: string;
  schedule: string;
  /** Whose numbers they are. */
  follows: 'diffusers' | 'comfyui';
  /** x at the start = initNoise · noise, for a picture from nothing. */
  initNoise: number;
  /** How much of a given picture and of noise is in x at the start. */
  start: Level;
  /** Latents as noisy as before step `i` of `steps`; `i = steps.length` is the clean picture. */
  addNoise(i: number): Level;
}

/** Weights of x, of the predicted picture x0, of the picture that the negative prompt alone predicts, and of what was remembered. */
export interface Mix {
  x: number;
  denoised: number;
  negative?: number;
  history?: number[];
}

/** A step in these terms. */
export interface Move extends Mix {
  noise?: StepNoise | null;
  /** Left out = nothing is remembered. */
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

/** What steps remember that go on from the pictures predicted before. */
export const PICTURE: Mix = { x: 0, denoised: 1 };

/** From one level to another along the predicted noise: x' = (σ'/σ) · x + (α' − α · σ'/σ) · x0. */
export function along(from: Level, to: Level): { x: number; denoised: number } {
  const x = to.sigma / from.sigma;
  return { x, denoised: to.alpha - from.alpha * x };
}
