/** diffusers, schedulers/scheduling_euler_ancestral_discrete.py; x carries the picture at full scale. */
import * as v from 'valibot';
import { noiseTable } from '../predictions/noise_table.ts';
import { predictions } from '../predictions/registry.ts';
import { flag, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import { initNoiseAtFullScale } from './scale.ts';
import { USUAL_OPTIONS, type Scheduler } from './scheduler.ts';

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
  read(config) {
    const settings = readSettings(settingsSchema, config);
    return {
      sampler: 'euler_ancestral',
      options: USUAL_OPTIONS,
      prediction: predictions[settings.prediction_type],
      scale: 'full',
      table: noiseTable(settings),
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      levels: null,
      grid: { spare: 0, round: Math.fround },
      finalNoise: 0,
      timestepOf: Math.fround,
      endsInFirstOrder: () => false,
      initNoise: initNoiseAtFullScale,
    };
  },
};
