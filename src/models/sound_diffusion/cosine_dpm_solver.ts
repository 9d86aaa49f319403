/**
 * The noise levels of Stable Audio and the steps between them: a DPM-Solver++ for the stochastic equation.
 * Reference: diffusers/schedulers/scheduling_cosine_dpmsolver_multistep.py
 */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import { linspace } from '../../core/linspace.ts';
import { secondOrderSde } from '../../samplers/dpmpp_2m_sde.ts';
import type { Point, SamplerPlan } from '../../samplers/sampler.ts';
import { readSettings, type SchedulerConfig } from '../../schedulers/config.ts';

export const className = 'CosineDPMSolverMultistepScheduler';

const positive = (standard: number) => v.optional(v.pipe(v.number(), v.gtValue(0)), standard);

const settingsSchema = v.object({
  sigma_min: positive(0.3),
  sigma_max: positive(500),
  sigma_data: positive(1),
  sigma_schedule: v.optional(v.picklist(['exponential', 'karras']), 'exponential'),
  solver_order: v.optional(v.picklist([1, 2]), 2),
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction']), 'v_prediction'),
  rho: positive(7),
  // The class itself takes the words of its sister classes for the first one.
  solver_type: v.optional(v.picklist(['midpoint', 'heun', 'logrho', 'bh1', 'bh2']), 'midpoint'),
  // With "sigma_min" the class divides by zero.
  final_sigmas_type: v.optional(v.literal('zero'), 'zero'),
});

export type Settings = v.InferOutput<typeof settingsSchema>;

/** @throws StudioError `checkpoint_unsupported` for another class, and for what is not done here */
export function cosineSettings(config: SchedulerConfig): Settings {
  if (config.className !== className) {
    throw new StudioError(
      'checkpoint_unsupported',
      `This checkpoint asks for ${config.className}; sounds are sampled with ${className} here, so choose another checkpoint.`,
    );
  }
  const settings = readSettings(settingsSchema, config);
  const { sigma_min: least, sigma_max: greatest } = settings;
  if (least >= greatest) {
    throw new StudioError(
      'checkpoint_damaged',
      `The noise levels of this checkpoint's scheduler_config.json go from ${greatest} down to ${least}; get the file again.`,
    );
  }
  return settings;
}

/**
 * @param strength the share of the steps that is run on a given sound; undefined = all, on noise
 * @throws StudioError `invalid_operation` for a strength that leaves nothing to run
 */
export function planCosine(settings: Settings, steps: number, strength: number | undefined): SamplerPlan {
  const left = Math.min(Math.floor(steps * (strength ?? 1)), steps);
  if (left < 1) {
    throw new StudioError(
      'invalid_operation',
      `A strength of ${strength} leaves none of the ${steps} steps to run; raise the strength or the number of steps.`,
    );
  }
  const { sigma_min: least, sigma_max: greatest } = settings;
  const points = levels(settings, steps)
    .slice(steps - left)
    .map((noise) => pointAt(noise, settings));
  const ends = [...points.slice(1), pointAt(0, settings)];
  const at = (noise: number) => pointAt(noise, settings);
  const { solver_order: order, solver_type: type } = settings;
  const options = { order, solverType: type === 'heun' ? type : 'midpoint', firstOrderEnd: true } as const;
  const course = {
    points,
    targets: ends,
    grid: null,
    options,
    at,
    atLambda: (lambda: number) => at(Math.exp(-lambda)),
  };
  const plan = secondOrderSde({ ...course, noiseAfter: () => greatest }, options.solverType);
  const [{ level }] = points;
  // As noisy as x would be with the picture in it.
  const initNoise = left === steps ? Math.sqrt(greatest ** 2 + 1) : level.sigma;
  return {
    ...plan,
    sampler: 'dpmpp_2m_sde',
    schedule: settings.sigma_schedule,
    follows: 'diffusers',
    initNoise,
    range: { least: Math.fround(least), greatest: Math.fround(greatest) },
    start: { ...level, sigma: initNoise },
    addNoise: (i) => points[i]?.level ?? ends[ends.length - 1].level,
  };
}

const f = Math.fround;

/** The noisiest first, in single precision, by which the Brownian motion is asked. */
function levels({ sigma_min: least, sigma_max: greatest, sigma_schedule, rho }: Settings, steps: number): number[] {
  if (sigma_schedule === 'karras') {
    const [most, fewest] = [greatest ** (1 / rho), least ** (1 / rho)];
    return linspace(0, 1, steps).map((share) => f(f(f(most) + f(share * f(fewest - most))) ** rho));
  }
  return linspace(Math.log(least), Math.log(greatest), steps)
    .map((log) => f(Math.exp(log)))
    .reverse();
}

/** x holds the sound at full scale, and `noise` times its noise. */
function pointAt(noise: number, { sigma_data: data, prediction_type: predicts }: Settings): Point {
  const variance = noise ** 2 + data ** 2;
  const level = { alpha: 1, sigma: noise };
  const model = (noise * data) / Math.sqrt(variance);
  return {
    ...level,
    level,
    noise,
    timestep: (Math.atan(noise) / Math.PI) * 2,
    inputScale: 1 / Math.sqrt(variance),
    denoised: { x: data ** 2 / variance, model: predicts === 'epsilon' ? model : -model },
    lambda: -Math.log(noise),
  };
}
