/**
 * The noise levels of Stable Audio 3 and the steps between them: of distilled checkpoints each goes to the sound itself and back to the next level with
 * fresh noise ("ping-pong", the same as latent consistency models' steps), of others by Euler's method.
 * Reference: diffusers/pipelines/stable_audio_3/pipeline_stable_audio_3.py and schedulers/scheduling_flow_match_euler_discrete.py
 */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import { linspace } from '../../core/linspace.ts';
import { sampler as euler } from '../../samplers/euler.ts';
import { sampler as lcm } from '../../samplers/lcm.ts';
import type { Point, Sampler, SamplerPlan } from '../../samplers/sampler.ts';
import { flag, off, readSettings, type SchedulerConfig } from '../../schedulers/config.ts';

const CLASS = 'FlowMatchEulerDiscreteScheduler';
/** The logarithms of the signal-to-noise ratio between which the levels lie. */
const [NOISIEST, CLEANEST] = [-6.2, 2];

const settingsSchema = v.object({
  num_train_timesteps: v.optional(v.pipe(v.number(), v.minValue(1)), 1000),
  // The pipeline lays out the levels; a scheduler that moves them once more would change them.
  shift: v.optional(v.literal(1), 1),
  use_dynamic_shifting: off(),
  invert_sigmas: off(),
  shift_terminal: v.optional(v.nullable(v.literal(0)), null),
  use_karras_sigmas: off(),
  use_exponential_sigmas: off(),
  use_beta_sigmas: off(),
  stochastic_sampling: flag(false),
});

export type Settings = v.InferOutput<typeof settingsSchema>;

/** @throws StudioError `checkpoint_unsupported` for another class, and for what is not done here */
export function pingPongSettings(config: SchedulerConfig): Settings {
  if (config.className !== CLASS) {
    throw new StudioError(
      'checkpoint_unsupported',
      `This checkpoint asks for ${config.className}; Stable Audio 3 is sampled with ${CLASS}, so choose another checkpoint.`,
    );
  }
  return readSettings(settingsSchema, config);
}

/**
 * The noisiest first, in single precision, without the final 0. Below 1 the second one may be noisier than the first, as the reference has it.
 * @param first above 0 to 1
 */
export function noiseLevels(steps: number, first: number): number[] {
  const f = Math.fround;
  const range = f(CLEANEST - NOISIEST);
  const levels = linspace(first, 0, steps + 1).map((time) => f(1 / f(1 + f(Math.exp(f(CLEANEST - f(time * range)))))));
  return [f(first), ...levels.slice(1, -1)];
}

/** @param first the level of what is sampled from: 1 for noise alone */
export function planPingPong(settings: Settings, steps: number, first: number): SamplerPlan {
  const { stochastic_sampling: isDistilled, num_train_timesteps: length } = settings;
  const sampler = isDistilled ? lcm : euler;
  const at = (noise: number) => pointAt(noise, Math.fround(noise * length), sampler);
  const points = noiseLevels(steps, first).map(at);
  const ends = [...points.slice(1), at(0)];
  const plan = sampler.plan({
    points,
    skipped: [],
    targets: ends,
    grid: null,
    options: { order: 1, solverType: 'midpoint', firstOrderEnd: true },
    at,
    atTimestep: (timestep) => at(timestep / length),
    atLambda: (lambda) => at(1 / (1 + Math.exp(lambda))),
    noiseAfter: (share) => 1 - share,
  });
  const [{ level }] = points;
  return {
    ...plan,
    sampler: sampler.id,
    schedule: 'log_snr',
    follows: 'diffusers',
    initNoise: level.sigma,
    range: null,
    start: level,
    addNoise: (i) => points[i]?.level ?? ends[ends.length - 1].level,
  };
}

/** On the straight line between sound and noise, as of any rectified flow. */
function pointAt(noise: number, timestep: number, { readsFlow }: Sampler): Point {
  const level = { alpha: 1 - noise, sigma: noise };
  const { alpha, sigma } = readsFlow ? level : { alpha: 1, sigma: noise };
  const denoised = { x: 1, model: -noise };
  return { alpha, sigma, level, noise, timestep, inputScale: 1, denoised, lambda: Math.log(alpha / sigma) };
}
