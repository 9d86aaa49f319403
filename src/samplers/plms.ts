/**
 * Pseudo linear multistep (PLMS): https://arxiv.org/abs/2202.09778, equations 9, 12 and 13, without Runge-Kutta steps.
 * Reference: diffusers, schedulers/scheduling_pndm.py with `skip_prk_steps`, the scheduler that the original
 * Stable Diffusion 1.x repositories name. x keeps unit variance; the history holds network outputs.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import { roundHalfEven } from '../schedules/schedule.ts';
import { flag, noiseTable, readSettings, spacing, stepsOffset, tableEntries } from './config.ts';
import type { Pair, Sampler, Step } from './sampler.ts';
import { denoisedFrom } from './sampler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction']), 'epsilon'),
  timestep_spacing: spacing('leading'),
  steps_offset: stepsOffset(),
  set_alpha_to_one: flag(false),
});

/** Adams-Bashforth weights by the number of outputs known: the current one first. */
const WEIGHTS = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]];

export const sampler: Sampler = {
  id: 'plms',
  diffusersClass: 'PNDMScheduler',
  prepare(config) {
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
    const alphas = table.alphasCumprod;
    const finalAlpha = settings.set_alpha_to_one ? 1 : alphas[0];
    const alphaBar = (timestep: number) => (timestep >= 0 ? alphas[timestep] : finalAlpha);

    /** Equation 9: x at `to` from x at `from` and the (combined) network output. */
    const transfer = (from: number, to: number): Pair => {
      const a = alphaBar(from);
      const b = alphaBar(to);
      const x = Math.sqrt(b / a);
      const noise = -(b - a) / (a * Math.sqrt(1 - b) + Math.sqrt(a * (1 - a) * b));
      return settings.prediction_type === 'epsilon'
        ? { x, model: noise }
        : { x: x + noise * Math.sqrt(1 - a), model: noise * Math.sqrt(a) };
    };

    return {
      table,
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      karras: null,
      grid: { spare: 0, round: roundHalfEven },
      finalSigma: Math.sqrt((1 - finalAlpha) / finalAlpha),
      timestepOf: roundHalfEven,
      plan({ timesteps, sigmas, onGrid }, first) {
        if (!onGrid) {
          throw new StudioError(
            'invalid_operation',
            'The sampler plms needs evenly spaced timesteps; choose the schedule leading, trailing or linspace, or another sampler.',
          );
        }
        const stride = Math.floor(table.length / timesteps.length);
        // The second timestep is visited twice: the first visit only improves the step that led there.
        const visits = timesteps.map((timestep, i) => ({ timestep, sigma: sigmas[i] }));
        visits.splice(1, 0, ...visits.slice(1, 2));

        const steps = visits.slice(first).map(({ timestep, sigma }, call): Step => {
          const alpha = alphaBar(timestep);
          const common = {
            timestep,
            sigma,
            inputScale: 1,
            denoised: denoisedFrom(settings.prediction_type, Math.sqrt(alpha), Math.sqrt(1 - alpha)),
            remember: { x: 0, model: 1 },
          };
          if (call === 1) {
            // Begin again where call 0 began, with the mean of both outputs. Call 0 made x = A·start + B·H[0], so
            // start = (x − B·H[0])/A; the start itself need not be kept.
            const before = (visits[first] as { timestep: number }).timestep;
            const done = transfer(before, before - stride);
            const again = transfer(timestep + stride, timestep);
            const x = again.x / done.x;
            return {
              ...common,
              next: { x, model: again.model / 2, history: [again.model / 2 - x * done.model] },
              shift: false,
            };
          }
          const known = call === 0 ? 0 : Math.min(call - 1, 3);
          const [now, ...before] = WEIGHTS[known] as [number, ...number[]];
          const { x, model } = transfer(timestep, timestep - stride);
          return {
            ...common,
            next: { x, model: model * now, history: before.map((weight) => model * weight) },
            shift: true,
          };
        });
        return {
          initNoise: 1,
          steps,
          historyLength: 3,
          addNoise: (i) => {
            const step = steps[i];
            const alpha = step ? alphaBar(step.timestep) : 1;
            return { image: Math.sqrt(alpha), noise: Math.sqrt(1 - alpha) };
          },
        };
      },
    };
  },
};
