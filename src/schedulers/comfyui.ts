/** ComfyUI's KSampler and model types (comfy/samplers.py, comfy/model_sampling.py); x carries the picture at full scale, or a flow. */
import * as v from 'valibot';
import { discreteLevels, discreteTime, flowLevels, shiftedTime } from '../predictions/comfyui_levels.ts';
import { predictions } from '../predictions/registry.ts';
import { flag, readSettings, tableEntries } from './config.ts';
import { constantShift } from './flow_match_euler_discrete.ts';
import { USUAL_OPTIONS, type Choices, type Scheduler } from './scheduler.ts';

const settingsSchema = v.object({
  ...tableEntries,
  prediction_type: v.optional(v.picklist(['epsilon', 'v_prediction', 'sample', 'flow_prediction']), 'epsilon'),
  rescale_betas_zero_snr: flag(false),
  shift: v.optional(v.pipe(v.number(), v.finite(), v.gtValue(0)), 1),
});

const SAMPLERS = [
  'euler',
  'euler_cfg_pp',
  'euler_ancestral',
  'euler_ancestral_cfg_pp',
  'heun',
  'heunpp2',
  'dpm_2',
  'dpm_2_ancestral',
  'lms',
  'dpmpp_2s_ancestral',
  'dpmpp_2s_ancestral_cfg_pp',
  'dpmpp_sde',
  'dpmpp_2m',
  'dpmpp_2m_cfg_pp',
  'dpmpp_2m_sde',
  'dpmpp_2m_sde_heun',
  'dpmpp_3m_sde',
  'ddpm',
  'lcm',
  'ipndm',
  'ipndm_v',
  'deis',
  'res_multistep',
  'res_multistep_cfg_pp',
  'res_multistep_ancestral',
  'res_multistep_ancestral_cfg_pp',
  'gradient_estimation',
  'gradient_estimation_cfg_pp',
  'er_sde',
  'sa_solver',
  'ddim',
  'uni_pc',
  'uni_pc_bh2',
] as const;

/** DISCARD_PENULTIMATE_SIGMA_SAMPLERS, which applies to KSampler's own schedules. Others come from nodes and are used as they are. */
const DROPS_PENULTIMATE = new Set(['dpm_2', 'dpm_2_ancestral', 'uni_pc', 'uni_pc_bh2']);
const OF_NODES = new Set(['polyexponential', 'align_your_steps', 'gits']);

/** The first level counts as full noise if it is this close to the noisiest one, or beyond it. */
const FULL = 1e-5;

export const scheduler: Scheduler = {
  className: 'ComfyUI',
  follows: 'comfyui',
  samplers: SAMPLERS,
  read(config, asked = 'euler', course) {
    const { className, values } = config;
    const node = course?.modelSampling;
    const kind = className.startsWith('FlowMatch')
      ? { prediction_type: 'flow_prediction', ...values, shift: node?.shift ?? constantShift(config, course) }
      : values;
    const settings = readSettings(settingsSchema, { className, values: kind });
    const { num_train_timesteps: count, shift } = settings;
    const isFlow = settings.prediction_type === 'flow_prediction';
    const table = isFlow ? flowLevels(shift, node?.levels ?? count) : discreteLevels(settings);
    const noisiest = table.sigmas[table.length - 1];
    const ofKind: Pick<Choices, 'timestepAt' | 'time'> = isFlow
      ? {
          timestepAt: (noise) => noise * count,
          time: {
            first: noisiest * count,
            last: table.sigmas[0] * count,
            noiseAt: (time) => shiftedTime(shift, time / count),
          },
        }
      : discreteTime(table);
    return {
      sampler: asked,
      // The options exist only in diffusers' configs.
      options: { ...USUAL_OPTIONS, firstOrderEnd: true },
      prediction: predictions[settings.prediction_type],
      scale: isFlow ? 'unit' : 'full',
      table,
      spacing: 'normal',
      stepsOffset: 0,
      levels: null,
      grid: { spare: 0, round: (timestep) => timestep },
      finalNoise: 0,
      timestepOf: Math.round,
      ...ofKind,
      dropsPenultimate: (schedule) => DROPS_PENULTIMATE.has(asked) && !OF_NODES.has(schedule),
      keepsSteps: true,
      endsInFirstOrder: () => true,
      initNoise: ({ sigma }) => (isFlow || sigma < noisiest * (1 - FULL) ? sigma : Math.sqrt(1 + sigma * sigma)),
    };
  },
};
