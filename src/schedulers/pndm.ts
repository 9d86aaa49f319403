/** diffusers, schedulers/scheduling_pndm.py with `skip_prk_steps`; x keeps unit variance. */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import { noiseTable } from '../predictions/noise_table.ts';
import { predictions } from '../predictions/registry.ts';
import { roundHalfEven } from '../schedules/schedule.ts';
import { flag, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { USUAL_OPTIONS, type Scheduler } from './scheduler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction']), 'epsilon'),
  timestep_spacing: spacing('leading'),
  steps_offset: stepsOffset(),
  set_alpha_to_one: flag(false),
});

export const scheduler: Scheduler = {
  className: 'PNDMScheduler',
  samplers: ['plms'],
  read(config) {
    if (config.className === 'PNDMScheduler' && config.values.skip_prk_steps !== true) {
      throw new StudioError(
        'checkpoint_unsupported',
        "This checkpoint's scheduler_config.json asks for Runge-Kutta steps (skip_prk_steps is not true), which plms leaves out; choose another sampler.",
      );
    }
    if (config.className !== 'PNDMScheduler' && config.values.rescale_betas_zero_snr === true) {
      throw new StudioError(
        'checkpoint_unsupported',
        'The sampler plms cannot begin with pure noise, as this checkpoint asks (rescale_betas_zero_snr); choose another sampler.',
      );
    }
    const settings = readSettings(settingsSchema, config);
    const table = noiseTable(settings);
    const finalAlpha = settings.set_alpha_to_one ? 1 : table.alphasCumprod[0];
    return {
      sampler: 'plms',
      options: USUAL_OPTIONS,
      prediction: predictions[settings.prediction_type],
      scale: 'unit',
      table,
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      levels: null,
      grid: { spare: 0, round: roundHalfEven },
      finalNoise: Math.sqrt((1 - finalAlpha) / finalAlpha),
      timestepOf: roundHalfEven,
      targetOf: (timestep, stride) => timestep - stride,
      // The second timestep is visited twice: the first visit only improves the step that led there.
      visits: (points) => [...points.slice(0, 1), ...points.slice(1, 2), ...points.slice(1)],
      endsInFirstOrder: () => false,
      initNoise: () => 1,
    };
  },
};
