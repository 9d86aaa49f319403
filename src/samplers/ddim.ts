/**
 * Denoising diffusion implicit models with η = 0: https://arxiv.org/abs/2010.02502, equation 12.
 * Reference: diffusers, schedulers/scheduling_ddim.py. x keeps unit variance: x = √ᾱ · x0 + √(1−ᾱ) · noise.
 */
import * as v from 'valibot';
import { roundHalfEven } from '../schedules/schedule.ts';
import { flag, noiseTable, off, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import type { Sampler, Step } from './sampler.ts';
import { denoisedFrom, noiseFrom } from './sampler.ts';

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

export const sampler: Sampler = {
  id: 'ddim',
  diffusersClass: 'DDIMScheduler',
  prepare(config) {
    // The class itself clips unless told otherwise; a config of another class says nothing about clipping by silence.
    const clips = config.className === 'DDIMScheduler' && config.values.clip_sample === undefined;
    const values = clips ? { ...config.values, clip_sample: true } : config.values;
    const settings = readSettings(settingsSchema, { ...config, values });
    const table = noiseTable(settings);
    const finalAlpha = settings.set_alpha_to_one ? 1 : table.alphasCumprod[0];
    return {
      table,
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      karras: null,
      grid: { spare: 0, round: roundHalfEven },
      finalSigma: Math.sqrt((1 - finalAlpha) / finalAlpha),
      timestepOf: roundHalfEven,
      plan({ timesteps, sigmas, onGrid }, first) {
        const alphaBar = (timestep: number) => (timestep >= 0 ? table.alphasCumprod[timestep] : finalAlpha);
        const level = (i: number) => (onGrid ? alphaBar(timesteps[i]) : 1 / (1 + sigmas[i] ** 2));
        // On the grid the target is one stride below, which is not always the next point of the path.
        const stride = Math.floor(table.length / timesteps.length);
        const target = (i: number) => (onGrid ? alphaBar(timesteps[i] - stride) : level(i + 1));

        const steps = timesteps.map((timestep, i): Step => {
          const alpha = Math.sqrt(level(i));
          const sigma = Math.sqrt(1 - level(i));
          const x0 = denoisedFrom(settings.prediction_type, alpha, sigma);
          const noise = noiseFrom(settings.prediction_type, alpha, sigma);
          const nextAlpha = Math.sqrt(target(i));
          const nextSigma = Math.sqrt(1 - target(i));
          return {
            timestep,
            sigma: sigmas[i],
            inputScale: 1,
            denoised: x0,
            next: {
              x: nextAlpha * x0.x + nextSigma * noise.x,
              model: nextAlpha * x0.model + nextSigma * noise.model,
              history: [],
            },
            shift: false,
            remember: { x: 0, model: 0 },
          };
        });
        return {
          initNoise: 1,
          steps: steps.slice(first),
          historyLength: 0,
          addNoise: (i) =>
            first + i < steps.length
              ? { image: Math.sqrt(level(first + i)), noise: Math.sqrt(1 - level(first + i)) }
              : { image: 1, noise: 0 },
        };
      },
    };
  },
};
