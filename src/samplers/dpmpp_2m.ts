/**
 * DPM-Solver++(2M): https://arxiv.org/abs/2211.01095, algorithm 2.
 * Reference: diffusers, schedulers/scheduling_dpmsolver_multistep.py (`algorithm_type: "dpmsolver++"`, order 1 or 2).
 * x keeps unit variance: x = α · x0 + σ · noise, λ = ln(α/σ).
 */
import * as v from 'valibot';
import { roundHalfEven } from '../schedules/schedule.ts';
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
  use_lu_lambdas: off(),
  use_flow_sigmas: off(),
  thresholding: off(),
  solver_order: v.optional(v.picklist([1, 2]), 2),
  // The class itself takes the words of its sister classes (DEIS, UniPC) for its own.
  algorithm_type: v.optional(v.picklist(['dpmsolver++', 'deis']), 'dpmsolver++'),
  solver_type: v.optional(v.picklist(['midpoint', 'heun', 'logrho', 'bh1', 'bh2']), 'midpoint'),
  lower_order_final: flag(true),
  euler_at_final: flag(false),
  final_sigmas_type: v.optional(v.picklist(['zero', 'sigma_min']), 'zero'),
  lambda_min_clipped: v.nullish(v.literal(-Infinity)),
  variance_type: v.nullish(v.null()),
});

/** Below this number of steps diffusers lowers the order at the end. */
const FEW_STEPS = 15;

export const sampler: Sampler = {
  id: 'dpmpp_2m',
  diffusersClass: 'DPMSolverMultistepScheduler',
  prepare(config) {
    const settings = readSettings(settingsSchema, config);
    const table = noiseTable(settings);
    return {
      table,
      spacing: settings.timestep_spacing,
      stepsOffset: settings.steps_offset,
      karras: settings.use_karras_sigmas ? 'table' : null,
      grid: { spare: 1, round: roundHalfEven },
      finalSigma: settings.final_sigmas_type === 'zero' ? 0 : table.sigmas[0],
      // The cosine schedule's timesteps are not rounded but cut by the conversion to integers.
      timestepOf: settings.beta_schedule === 'squaredcos_cap_v2' ? Math.trunc : roundHalfEven,
      plan({ timesteps, sigmas }, first) {
        const total = timesteps.length;
        const level = (i: number) => {
          const ratio = sigmas[i];
          const alpha = 1 / Math.sqrt(ratio * ratio + 1);
          return { alpha, sigma: ratio * alpha, lambda: -Math.log(ratio) };
        };
        const steps: Step[] = [];
        for (let i = first; i < total; i++) {
          const from = level(i);
          const to = level(i + 1);
          const denoised = denoisedFrom(settings.prediction_type, from.alpha, from.sigma);
          const h = to.lambda - from.lambda;
          const gain = to.alpha * -Math.expm1(-h);

          const isLast = i === total - 1;
          const lowersLast =
            settings.euler_at_final || to.sigma === 0 || (settings.lower_order_final && total < FEW_STEPS);
          const isFirstOrder = settings.solver_order === 1 || i === first || (isLast && lowersLast);
          let slope = 0;
          if (!isFirstOrder) {
            const ratio = (from.lambda - level(i - 1).lambda) / h;
            slope = (settings.solver_type === 'heun' ? to.alpha * (Math.expm1(-h) / h + 1) : 0.5 * gain) / ratio;
          }
          // x' = (σ'/σ)·x + gain·x0 + slope·(x0 − x0 of the step before)
          steps.push({
            timestep: timesteps[i],
            sigma: sigmas[i],
            inputScale: 1,
            denoised,
            next: {
              x: to.sigma / from.sigma + (gain + slope) * denoised.x,
              model: (gain + slope) * denoised.model,
              history: isFirstOrder ? [] : [-slope],
            },
            shift: true,
            remember: denoised,
          });
        }
        return {
          initNoise: 1,
          steps,
          historyLength: 1,
          addNoise: (i) => {
            const { alpha, sigma } = level(first + i);
            return first + i < total ? { image: alpha, noise: sigma } : { image: 1, noise: 0 };
          },
        };
      },
    };
  },
};
