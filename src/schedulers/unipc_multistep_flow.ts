/**
 * diffusers, schedulers/scheduling_unipc_multistep.py, on a flow (`use_flow_sigmas`), as Wan is sampled. It goes evenly from noise to picture,
 * shifted towards the noise.
 */
import * as v from 'valibot';
import { predictions } from '../predictions/registry.ts';
import { LEAST_PICTURE } from '../samplers/uni_pc_flow.ts';
import { linspace } from '../schedules/schedule.ts';
import { off, readSettings } from './config.ts';
import { USUAL_OPTIONS, flowTable, type Scheduler } from './scheduler.ts';

const on = () => v.optional(v.literal(true), true);

const settingsSchema = v.object({
  num_train_timesteps: v.optional(v.pipe(v.number(), v.integer(), v.minValue(2), v.maxValue(10_000)), 1000),
  // What its own defaults say is no flow, and that is not done here.
  prediction_type: v.literal('flow_prediction'),
  use_flow_sigmas: v.literal(true),
  flow_shift: v.optional(v.pipe(v.number(), v.gtValue(0)), 1),
  solver_order: v.optional(v.picklist([1, 2, 3]), 2),
  solver_type: v.optional(v.literal('bh2'), 'bh2'),
  predict_x0: on(),
  lower_order_final: on(),
  disable_corrector: v.optional(v.pipe(v.array(v.number()), v.maxLength(0)), () => []),
  solver_p: v.nullish(v.null()),
  thresholding: off(),
  use_karras_sigmas: off(),
  use_exponential_sigmas: off(),
  use_beta_sigmas: off(),
  use_dynamic_shifting: off(),
  shift_terminal: v.nullish(v.null()),
  final_sigmas_type: v.optional(v.literal('zero'), 'zero'),
});

export const scheduler: Scheduler = {
  className: 'UniPCMultistepScheduler',
  samplers: ['uni_pc_flow'],
  isFlow: true,
  read(config) {
    const {
      num_train_timesteps: length,
      flow_shift: shift,
      solver_order: order,
    } = readSettings(settingsSchema, config);
    const shifted = (level: number) => (shift * level) / (1 + (shift - 1) * level);
    return {
      sampler: 'uni_pc_flow',
      options: { ...USUAL_OPTIONS, unified: { order, lastNoise: 0 } },
      prediction: predictions.flow_prediction,
      scale: 'unit',
      table: flowTable(length, shifted),
      spacing: 'shifted',
      spaced: (steps) =>
        linspace(1, 1 / length, steps + 1)
          .slice(0, -1)
          .map(shifted)
          .map((level) => (Math.abs(level - 1) < LEAST_PICTURE ? level - LEAST_PICTURE : level)),
      stepsOffset: 0,
      levels: null,
      grid: { spare: 0, round: Math.fround },
      finalNoise: 0,
      timestepOf: Math.trunc,
      timestepAt: (noise) => Math.trunc(noise * length),
      endsInFirstOrder: () => false,
      initNoise: () => 1,
    };
  },
};
