/**
 * Timesteps that a consistency model was distilled on, every 20th of 1000 unless the checkpoint says otherwise: `set_timesteps` of diffusers'
 * LCMScheduler and TCDScheduler.
 */
import type { Schedule } from './schedule.ts';

/** As the authors of latent consistency models distil, and as diffusers assumes. */
const USUAL_STEPS = 50;

export const schedule: Schedule = {
  id: 'distilled',
  points({ steps, table, grid: { distilledSteps = USUAL_STEPS } }) {
    const stride = Math.floor(table.length / distilledSteps);
    return {
      timesteps: Array.from(
        { length: steps },
        (_, i) => (distilledSteps - Math.floor((i * distilledSteps) / steps)) * stride - 1,
      ),
    };
  },
};
