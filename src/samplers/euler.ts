/**
 * Euler's method on the probability flow: algorithm 1 (without churn) of https://arxiv.org/abs/2206.00364.
 * Reference: diffusers, schedulers/scheduling_euler_discrete.py. x carries the picture at full scale: x = x0 + σ · noise.
 */
import * as v from 'valibot';
import { flag, noiseTable, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import type { Sampler, Step } from './sampler.ts';
import { denoisedFrom } from './sampler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample']), 'epsilon'),
  timestep_spacing: spacing('linspace'),
  steps_offset: stepsOffset(),
  rescale_betas_zero_snr: flag(false),
  use_karras_sigmas: flag(false),
  use_exponential_sigmas: off(),
  use_beta_sigmas: off(),
  interpolation_type: v.optional(v.literal('linear'), 'linear'),
  timestep_type: v.optional(v.literal('discrete'), 'discrete'),
  sigma_min: v.nullish(v.null()),
  sigma_max: v.nullish(v.null()),
  final_sigmas_type: v.optional(v.picklist(['zero', 'sigma_min']), 'zero'),
});

export const sampler: Sampler = {
  id: 'euler',
  diffusersClass: 'EulerDiscreteScheduler',
  prepare(config) {
    const settings = readSettings(settingsSchema, config);
    const table = noiseTable(settings);
    return {
      table,
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      karras: settings.use_karras_sigmas ? 'spacing' : null,
      grid: { spare: 0, round: Math.fround },
      finalSigma: settings.final_sigmas_type === 'zero' ? 0 : table.sigmas[0],
      timestepOf: Math.fround,
      plan({ timesteps, sigmas, spacing }, first) {
        const steps = timesteps.map((timestep, i): Step => {
          const sigma = sigmas[i];
          const inputScale = 1 / Math.sqrt(sigma * sigma + 1);
          const unit = denoisedFrom(settings.prediction_type, inputScale, sigma * inputScale);
          const denoised = { x: unit.x * inputScale, model: unit.model };
          // x' = x + (σ' − σ)·(x − x0)/σ
          const ratio = (sigmas[i + 1] - sigma) / sigma;
          return {
            timestep,
            sigma,
            inputScale,
            denoised,
            next: { x: 1 + ratio * (1 - denoised.x), model: -ratio * denoised.model, history: [] },
            shift: false,
            remember: { x: 0, model: 0 },
          };
        });
        const top = sigmas[0];
        return {
          // diffusers leaves out the picture's own variance where the first level counts as pure noise.
          initNoise: spacing === 'linspace' || spacing === 'trailing' ? top : Math.sqrt(top * top + 1),
          steps: steps.slice(first),
          historyLength: 0,
          addNoise: (i) => ({ image: 1, noise: first + i < steps.length ? sigmas[first + i] : 0 }),
        };
      },
    };
  },
};
