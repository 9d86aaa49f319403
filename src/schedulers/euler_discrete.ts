/** diffusers, schedulers/scheduling_euler_discrete.py; x carries the picture at full scale. */
import * as v from 'valibot';
import { noiseTable } from '../predictions/noise_table.ts';
import { predictions } from '../predictions/registry.ts';
import { flag, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { USUAL_OPTIONS, type Scheduler } from './scheduler.ts';
import { initNoiseAtFullScale } from './scale.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample']), 'epsilon'),
  timestep_spacing: spacing('linspace'),
  steps_offset: stepsOffset(),
  rescale_betas_zero_snr: flag(false),
  use_karras_sigmas: flag(false),
  use_exponential_sigmas: flag(false),
  use_beta_sigmas: off(),
  interpolation_type: v.optional(v.literal('linear'), 'linear'),
  timestep_type: v.optional(v.literal('discrete'), 'discrete'),
  sigma_min: v.nullish(v.null()),
  sigma_max: v.nullish(v.null()),
  final_sigmas_type: v.optional(v.picklist(['zero', 'sigma_min']), 'zero'),
});

export const scheduler: Scheduler = {
  className: 'EulerDiscreteScheduler',
  samplers: ['euler'],
  read(config) {
    const settings = readSettings(settingsSchema, config);
    const table = noiseTable(settings);
    const levels = settings.use_karras_sigmas ? 'karras' : settings.use_exponential_sigmas ? 'exponential' : null;
    return {
      sampler: 'euler',
      options: USUAL_OPTIONS,
      prediction: predictions[settings.prediction_type],
      scale: 'full',
      table,
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      levels: levels && { schedule: levels, ends: 'spacing' },
      grid: { spare: 0, round: Math.fround },
      finalNoise: settings.final_sigmas_type === 'zero' ? 0 : table.sigmas[0],
      timestepOf: Math.fround,
      endsInFirstOrder: () => false,
      initNoise: initNoiseAtFullScale,
    };
  },
};
