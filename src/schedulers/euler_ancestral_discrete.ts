/** diffusers, schedulers/scheduling_euler_ancestral_discrete.py; x carries the picture at full scale. */
import * as v from 'valibot';
import { flag, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { choicesAtFullScale } from './scale.ts';
import type { Scheduler } from './scheduler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction']), 'epsilon'),
  timestep_spacing: spacing('linspace'),
  steps_offset: stepsOffset(),
  rescale_betas_zero_snr: flag(false),
});

export const scheduler: Scheduler = {
  className: 'EulerAncestralDiscreteScheduler',
  samplers: ['euler_ancestral'],
  read: (config) => choicesAtFullScale('euler_ancestral', readSettings(settingsSchema, config)),
};
