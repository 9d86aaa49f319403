/** diffusers, schedulers/scheduling_euler_discrete.py; x carries the picture at full scale. */
import * as v from 'valibot';
import { flag, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { choicesAtFullScale } from './scale.ts';
import type { Scheduler } from './scheduler.ts';

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
    const choices = choicesAtFullScale('euler', settings);
    return { ...choices, finalNoise: settings.final_sigmas_type === 'zero' ? 0 : choices.table.sigmas[0] };
  },
};
