/** diffusers, schedulers/scheduling_lms_discrete.py, of fourth order; x carries the picture at full scale. */
import * as v from 'valibot';
import { flag, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { choicesAtFullScale } from './scale.ts';
import { USUAL_OPTIONS, type Scheduler } from './scheduler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample']), 'epsilon'),
  timestep_spacing: spacing('linspace'),
  steps_offset: stepsOffset(),
  rescale_betas_zero_snr: off(),
  use_karras_sigmas: flag(false),
  use_exponential_sigmas: flag(false),
  use_beta_sigmas: off(),
});

export const scheduler: Scheduler = {
  className: 'LMSDiscreteScheduler',
  samplers: ['lms'],
  read: (config) => ({
    ...choicesAtFullScale('lms', readSettings(settingsSchema, config)),
    options: { ...USUAL_OPTIONS, polynomialThroughout: true },
  }),
};
