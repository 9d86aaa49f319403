/**
 * diffusers, schedulers/scheduling_dpmsolver_multistep.py (`algorithm_type: "dpmsolver++"` or `"sde-dpmsolver++"`, order 1 or 2); x keeps
 * unit variance.
 */
import * as v from 'valibot';
import { noiseTable } from '../predictions/noise_table.ts';
import { predictions } from '../predictions/registry.ts';
import { roundHalfEven } from '../schedules/schedule.ts';
import { flag, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import type { Scheduler } from './scheduler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample']), 'epsilon'),
  timestep_spacing: spacing('linspace'),
  steps_offset: stepsOffset(),
  rescale_betas_zero_snr: flag(false),
  use_karras_sigmas: flag(false),
  // The class truncates these timesteps to integers, and the last bit of a logarithm decides between 999 and 998.
  use_exponential_sigmas: off(),
  use_beta_sigmas: off(),
  use_lu_lambdas: off(),
  use_flow_sigmas: off(),
  thresholding: off(),
  solver_order: v.optional(v.picklist([1, 2]), 2),
  // The class accepts the values of its sister classes (DEIS, UniPC).
  algorithm_type: v.optional(v.picklist(['dpmsolver++', 'sde-dpmsolver++', 'deis']), 'dpmsolver++'),
  solver_type: v.optional(v.picklist(['midpoint', 'heun', 'logrho', 'bh1', 'bh2']), 'midpoint'),
  lower_order_final: flag(true),
  euler_at_final: flag(false),
  final_sigmas_type: v.optional(v.picklist(['zero', 'sigma_min']), 'zero'),
  lambda_min_clipped: v.nullish(v.literal(-Infinity)),
  variance_type: v.nullish(v.null()),
});

/** Below this number of steps diffusers lowers the order at the end. */
const FEW_STEPS = 15;

export const scheduler: Scheduler = {
  className: 'DPMSolverMultistepScheduler',
  samplers: ['dpmpp_2m', 'dpmpp_2m_sde'],
  read(config, asked) {
    const settings = readSettings(settingsSchema, config);
    const table = noiseTable(settings);
    return {
      sampler: asked ?? (settings.algorithm_type === 'sde-dpmsolver++' ? 'dpmpp_2m_sde' : 'dpmpp_2m'),
      options: {
        order: settings.solver_order,
        solverType: settings.solver_type === 'heun' ? 'heun' : 'midpoint',
        firstOrderEnd: false,
      },
      prediction: predictions[settings.prediction_type],
      scale: 'unit',
      table,
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      levels: settings.use_karras_sigmas ? { schedule: 'karras', ends: 'table' } : null,
      grid: { spare: 1, round: roundHalfEven },
      finalNoise: settings.final_sigmas_type === 'zero' ? 0 : table.sigmas[0],
      // The cosine schedule's timesteps are truncated, not rounded.
      timestepOf: settings.beta_schedule === 'squaredcos_cap_v2' ? Math.trunc : roundHalfEven,
      endsInFirstOrder: (steps, end) =>
        settings.euler_at_final || end.sigma === 0 || (settings.lower_order_final && steps < FEW_STEPS),
      initNoise: () => 1,
    };
  },
};
