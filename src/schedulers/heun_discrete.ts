/** diffusers, schedulers/scheduling_heun_discrete.py; x carries the picture at full scale. */
import * as v from 'valibot';
import { flag, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { choicesAtFullScale } from './scale.ts';
import type { Scheduler } from './scheduler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  // Unlike its sister classes it begins with Stable Diffusion's levels.
  beta_start: v.optional(v.pipe(v.number(), v.finite()), 0.00085),
  beta_end: v.optional(v.pipe(v.number(), v.finite()), 0.012),
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample']), 'epsilon'),
  timestep_spacing: spacing('linspace'),
  steps_offset: stepsOffset(),
  rescale_betas_zero_snr: off(),
  use_karras_sigmas: flag(false),
  use_exponential_sigmas: flag(false),
  use_beta_sigmas: off(),
  clip_sample: off(),
});

export const scheduler: Scheduler = {
  className: 'HeunDiscreteScheduler',
  samplers: ['heun'],
  read: (config) => choicesAtFullScale('heun', readSettings(settingsSchema, config)),
};
