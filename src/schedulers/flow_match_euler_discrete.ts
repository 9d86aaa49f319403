/**
 * diffusers, schedulers/scheduling_flow_match_euler_discrete.py: the levels of a rectified flow are evenly spaced from noise to picture,
 * then shifted towards noise, by a constant of the config or according to the picture's size.
 */
import * as v from 'valibot';
import { predictions } from '../predictions/registry.ts';
import { linearQuadratic } from '../schedules/linear_quadratic.ts';
import { linspace } from '../schedules/schedule.ts';
import { flag, off, readSettings, type SchedulerConfig } from './config.ts';
import { USUAL_OPTIONS, flowTable, type FlowCourse, type Scheduler } from './scheduler.ts';

const number = (standard: number) => v.optional(v.pipe(v.number(), v.finite()), standard);

const settingsSchema = v.object({
  num_train_timesteps: v.optional(v.pipe(v.number(), v.integer(), v.minValue(2), v.maxValue(10_000)), 1000),
  shift: v.optional(v.pipe(v.number(), v.gtValue(0)), 1),
  use_dynamic_shifting: flag(false),
  base_shift: number(0.5),
  max_shift: number(1.15),
  base_image_seq_len: number(256),
  max_image_seq_len: number(4096),
  invert_sigmas: off(),
  shift_terminal: v.optional(v.nullable(v.pipe(v.number(), v.minValue(0), v.ltValue(1))), null),
  use_karras_sigmas: flag(false),
  use_exponential_sigmas: flag(false),
  use_beta_sigmas: off(),
  time_shift_type: v.optional(v.picklist(['exponential', 'linear']), 'exponential'),
  stochastic_sampling: off(),
});

type Settings = v.InferOutput<typeof settingsSchema>;

/** The default for families without a course of their own: the scheduler's shift for a picture of 1024×1024 pixels. */
const USUAL_COURSE: FlowCourse = { tokens: 4096, steps: 28, shift: 'linear', least: 'trained' };

export const scheduler: Scheduler = {
  className: 'FlowMatchEulerDiscreteScheduler',
  samplers: ['euler'],
  isFlow: true,
  read(config, _sampler, course = USUAL_COURSE) {
    const settings = readSettings(settingsSchema, config);
    const { num_train_timesteps: length, use_karras_sigmas, use_exponential_sigmas } = settings;
    const levels = use_karras_sigmas ? 'karras' : use_exponential_sigmas ? 'exponential' : null;
    const shift = shiftFor(settings, course);
    return {
      sampler: 'euler',
      options: USUAL_OPTIONS,
      prediction: predictions.flow_prediction,
      scale: 'unit',
      table: flowTable(length, shift),
      spacing: 'shifted',
      spaced: (steps) => spaced(settings, course, steps, shift),
      stepsOffset: 0,
      levels: course.given ? null : levels && { schedule: levels, ends: 'spacing' },
      grid: { spare: 0, round: Math.fround },
      finalNoise: 0,
      timestepOf: Math.fround,
      timestepAt: (noise) => Math.fround(noise * length),
      endsInFirstOrder: () => false,
      initNoise: () => 1,
    };
  },
};

/** The levels that the config itself asks for, noisiest first, without the final 0. */
function spaced(
  settings: Settings,
  { least, levels: schedule, given }: FlowCourse,
  steps: number,
  shift: (level: number) => number,
): number[] {
  if (given) {
    return [...given];
  }
  const { num_train_timesteps: length, use_dynamic_shifting, shift_terminal: terminal } = settings;
  // With a constant shift diffusers' smallest level is already shifted, so it is shifted twice.
  const smallest = use_dynamic_shifting ? 1 / length : shift(1 / length);
  const even = () => linspace(1, least === 'step' ? 1 / steps : smallest, steps);
  const levels = (schedule === 'linear_quadratic' ? linearQuadratic(steps) : even()).map(shift);
  if (terminal === null || terminal === 0) {
    return levels;
  }
  const stretch = (1 - levels[steps - 1]) / (1 - terminal);
  return levels.map((level) => 1 - (1 - level) / stretch);
}

/**
 * By how much the levels of a picture are shifted, as one number, which ComfyUI's model types take. A dynamic shift is the same formula with a
 * factor that the picture's size gives.
 * @throws StudioError `checkpoint_unsupported` if the config asks for something that is not implemented
 */
export function constantShift(config: SchedulerConfig, course: FlowCourse = USUAL_COURSE): number {
  const settings = readSettings(settingsSchema, config);
  return settings.use_dynamic_shifting ? dynamicFactor(settings, course) : settings.shift;
}

/** How levels from 0 to 1 are shifted towards noise. */
function shiftFor(settings: Settings, course: FlowCourse): (level: number) => number {
  const { use_dynamic_shifting, shift } = settings;
  if (!use_dynamic_shifting) {
    return (level) => (shift * level) / (1 + (shift - 1) * level);
  }
  const factor = dynamicFactor(settings, course);
  return (level) => (level === 0 ? 0 : factor / (factor + 1 / level - 1));
}

function dynamicFactor(settings: Settings, course: FlowCourse): number {
  const mu = SHIFTS[course.shift](settings, course);
  return settings.time_shift_type === 'exponential' ? Math.exp(mu) : mu;
}

const SHIFTS: Record<FlowCourse['shift'], (settings: Settings, course: FlowCourse) => number> = {
  linear: linearShift,
  empirical: (_, course) => empiricalShift(course),
  // diffusers/pipelines/qwenimage/pipeline_qwenimage_layered.py: 1 for a picture of 256×256 pixels.
  root: (_, { tokens }) => Math.sqrt(tokens / 256),
};

/** `calculate_shift` of diffusers' pipelines. */
function linearShift(settings: Settings, { tokens }: FlowCourse): number {
  const { base_shift, max_shift, base_image_seq_len: fewest, max_image_seq_len: most } = settings;
  const slope = (max_shift - base_shift) / (most - fewest);
  return tokens * slope + (base_shift - slope * fewest);
}

/** `compute_empirical_mu` of diffusers/pipelines/flux2/pipeline_flux2.py: fitted for 10 and for 200 steps. */
function empiricalShift({ tokens, steps }: FlowCourse): number {
  const at200 = 0.00016927 * tokens + 0.45666666;
  if (tokens > 4300) {
    return at200;
  }
  const at10 = 8.73809524e-5 * tokens + 1.89833333;
  const slope = (at200 - at10) / 190;
  return slope * steps + (at200 - 200 * slope);
}
