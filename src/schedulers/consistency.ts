/** What diffusers' schedulers of consistency models share: both go through timesteps that the network was distilled on; x keeps unit variance. */
import * as v from 'valibot';
import { noiseTable } from '../predictions/noise_table.ts';
import { predictions } from '../predictions/registry.ts';
import { roundHalfEven } from '../schedules/schedule.ts';
import { off, readSettings, tableEntries, type SchedulerConfig } from './config.ts';
import { USUAL_OPTIONS, type Choices } from './scheduler.ts';

const positive = (standard: number) => v.optional(v.pipe(v.number(), v.finite(), v.gtValue(0)), standard);

const settingsSchema = v.object({
  ...tableEntries,
  beta_start: positive(0.00085),
  beta_end: positive(0.012),
  beta_schedule: v.optional(v.picklist(['linear', 'scaled_linear', 'squaredcos_cap_v2']), 'scaled_linear'),
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample']), 'epsilon'),
  original_inference_steps: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), 50),
  timestep_scaling: positive(10),
  rescale_betas_zero_snr: off(),
  clip_sample: off(),
  thresholding: off(),
});

/**
 * @returns the choices, and the factor of the timestep in the boundary condition
 */
export function consistencyChoices(
  sampler: string,
  config: SchedulerConfig,
): { choices: Choices; timestepScaling: number } {
  const settings = readSettings(settingsSchema, config);
  const choices: Choices = {
    sampler,
    options: USUAL_OPTIONS,
    prediction: predictions[settings.prediction_type],
    scale: 'unit',
    table: noiseTable(settings),
    // The classes do not read timestep_spacing.
    spacing: 'distilled',
    stepsOffset: 0,
    levels: null,
    grid: { spare: 0, round: roundHalfEven, distilledSteps: settings.original_inference_steps },
    finalNoise: 0,
    timestepOf: roundHalfEven,
    endsInFirstOrder: () => false,
    initNoise: () => 1,
  };
  return { choices, timestepScaling: settings.timestep_scaling };
}
