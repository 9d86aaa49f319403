/** The samplers, schedules and schedulers for latent diffusion, and which of them a checkpoint's own scheduler stands for. */
import { StudioError } from '../../core/errors.ts';
import type { CheckpointSummary } from '../../core/model.ts';
import { samplers } from '../../samplers/registry.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import { defaultsOf } from '../../schedulers/plan.ts';
import { schedulers } from '../../schedulers/registry.ts';
import { schedules } from '../../schedules/registry.ts';

export const OFFERS = { samplers, schedules, schedulers };

/** Refuses nothing: a checkpoint whose own scheduler is unknown can still be run with a sampler that the person names. */
export function schedulerDefaults(
  config: SchedulerConfig,
): Pick<CheckpointSummary['defaults'], 'sampler' | 'schedule' | 'prediction_type' | 'rescale_betas_zero_snr'> {
  const { prediction_type: prediction = 'epsilon', rescale_betas_zero_snr: zero } = config.values;
  const predicts = {
    ...(typeof prediction === 'string' && { prediction_type: prediction }),
    ...(zero === true && { rescale_betas_zero_snr: true }),
  };
  try {
    return { ...predicts, ...defaultsOf(config, OFFERS) };
  } catch (error) {
    if (error instanceof StudioError && error.code === 'checkpoint_unsupported') {
      return { ...predicts, sampler: config.className, schedule: '' };
    }
    throw error;
  }
}
