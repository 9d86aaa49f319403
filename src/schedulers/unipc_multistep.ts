/** diffusers, schedulers/scheduling_unipc_multistep.py, predicting pictures; x keeps unit variance. */
import * as v from 'valibot';
import { noiseTable } from '../predictions/noise_table.ts';
import { predictions } from '../predictions/registry.ts';
import { roundHalfEven } from '../schedules/schedule.ts';
import { flag, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { USUAL_OPTIONS, type Scheduler } from './scheduler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample']), 'epsilon'),
  timestep_spacing: spacing('linspace'),
  steps_offset: stepsOffset(),
  rescale_betas_zero_snr: flag(false),
  use_karras_sigmas: flag(false),
  // The class cuts these levels' timesteps to integers, where the last bit of a logarithm decides between 999 and 998.
  use_exponential_sigmas: off(),
  use_beta_sigmas: off(),
  use_flow_sigmas: off(),
  use_dynamic_shifting: off(),
  thresholding: off(),
  solver_order: v.optional(v.picklist([1, 2, 3]), 2),
  // The class itself takes the words of its sister classes (DPM, DEIS) for its own second kind.
  solver_type: v.optional(v.picklist(['bh1', 'bh2', 'midpoint', 'heun', 'logrho']), 'bh2'),
  predict_x0: v.optional(v.literal(true), true),
  // Otherwise the last step divides by the λ of a level without noise, which is infinite.
  lower_order_final: v.optional(v.literal(true), true),
  disable_corrector: v.optional(v.pipe(v.array(v.number()), v.maxLength(0)), []),
  solver_p: v.nullish(v.null()),
  final_sigmas_type: v.optional(v.picklist(['zero', 'sigma_min']), 'zero'),
  sigma_min: v.nullish(v.null()),
  sigma_max: v.nullish(v.null()),
});

export const scheduler: Scheduler = {
  className: 'UniPCMultistepScheduler',
  samplers: ['uni_pc_bh2', 'uni_pc'],
  read(config, asked) {
    const settings = readSettings(settingsSchema, config);
    const table = noiseTable(settings);
    return {
      sampler: asked ?? (settings.solver_type === 'bh1' ? 'uni_pc' : 'uni_pc_bh2'),
      options: { ...USUAL_OPTIONS, unified: { order: settings.solver_order, lastNoise: 0 } },
      prediction: predictions[settings.prediction_type],
      scale: 'unit',
      table,
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      levels: settings.use_karras_sigmas ? { schedule: 'karras', ends: 'table' } : null,
      grid: { spare: 1, round: roundHalfEven },
      finalNoise: settings.final_sigmas_type === 'zero' ? 0 : table.sigmas[0],
      timestepOf: roundHalfEven,
      endsInFirstOrder: () => false,
      initNoise: () => 1,
    };
  },
};
