/** diffusers, schedulers/scheduling_ddim.py with η = 0; x keeps unit variance. */
import * as v from 'valibot';
import { noiseTable } from '../predictions/noise_table.ts';
import { predictions } from '../predictions/registry.ts';
import { roundHalfEven } from '../schedules/schedule.ts';
import { flag, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { USUAL_OPTIONS, type Scheduler } from './scheduler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample']), 'epsilon'),
  timestep_spacing: spacing('leading'),
  steps_offset: stepsOffset(),
  rescale_betas_zero_snr: flag(false),
  set_alpha_to_one: flag(true),
  clip_sample: off(),
  thresholding: off(),
});

export const scheduler: Scheduler = {
  className: 'DDIMScheduler',
  samplers: ['ddim'],
  read(config) {
    // The class itself clips by default; in another class's config a missing key says nothing about clipping.
    const clips = config.className === 'DDIMScheduler' && config.values.clip_sample === undefined;
    const values = clips ? { ...config.values, clip_sample: true } : config.values;
    const settings = readSettings(settingsSchema, { ...config, values });
    const table = noiseTable(settings);
    const finalAlpha = settings.set_alpha_to_one ? 1 : table.alphasCumprod[0];
    return {
      sampler: 'ddim',
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
      // On the grid the target is one stride below, not always the path's next point.
      targetOf: (timestep, stride) => timestep - stride,
      endsInFirstOrder: () => false,
      initNoise: () => 1,
    };
  },
};
