/**
 * Reads scheduler_config.json. Each scheduler file reads the keys of its diffusers class, with that class's defaults for missing ones.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';

/** scheduler_config.json as it stands. */
export interface SchedulerConfig {
  className: string;
  values: Readonly<Record<string, unknown>>;
}

const FILE = 'scheduler_config.json';

/**
 * @throws StudioError `checkpoint_damaged` if it is no JSON object with a `_class_name`
 */
export function parseSchedulerConfig(text: string): SchedulerConfig {
  let values: unknown;
  try {
    // Python writes infinities as bare words, such as DPMSolverMultistep's "lambda_min_clipped": -Infinity.
    values = JSON.parse(text.replace(/:\s*Infinity\b/g, ': 1e999').replace(/:\s*-Infinity\b/g, ': -1e999'));
  } catch (cause) {
    const message = `The file ${FILE} of this checkpoint is not valid JSON; get it again.`;
    throw new StudioError('checkpoint_damaged', message, { cause });
  }
  const result = v.safeParse(v.looseObject({ _class_name: v.string() }), values);
  if (!result.success) {
    throw new StudioError(
      'checkpoint_damaged',
      `The file ${FILE} of this checkpoint does not name its class; get it again.`,
    );
  }
  return { className: result.output._class_name, values: result.output };
}

/**
 * The same configuration with a prediction type or zero terminal SNR overridden by the request. Levels that end in pure noise are sampled
 * from their last timestep, as their authors ask (§3.3 of https://arxiv.org/abs/2305.08891), and by DDIM if the checkpoint names PNDM, which
 * does not support them.
 */
export function withPrediction(
  { className, values }: SchedulerConfig,
  chosen: { prediction_type?: 'epsilon' | 'v_prediction' | undefined; rescale_betas_zero_snr?: boolean | undefined },
): SchedulerConfig {
  const { prediction_type, rescale_betas_zero_snr } = chosen;
  const zero = rescale_betas_zero_snr === true;
  return {
    className: zero && className === 'PNDMScheduler' ? 'DDIMScheduler' : className,
    values: {
      ...values,
      ...(prediction_type !== undefined && { prediction_type }),
      ...(rescale_betas_zero_snr !== undefined && { rescale_betas_zero_snr }),
      ...(zero && { timestep_spacing: 'trailing', clip_sample: values.clip_sample ?? false }),
    },
  };
}

/**
 * The keys that a sampler reads.
 * @throws StudioError `checkpoint_unsupported`, naming the first key that is not understood
 */
export function readSettings<S extends v.GenericSchema>(schema: S, config: SchedulerConfig): v.InferOutput<S> {
  const result = v.safeParse(schema, config.values, { abortEarly: true });
  if (result.success) {
    return result.output;
  }
  const issue = result.issues[0];
  const key = v.getDotPath(issue) ?? '';
  throw new StudioError(
    'checkpoint_unsupported',
    `This checkpoint's ${FILE} sets ${key} to ${issue.received}, but this sampler needs ${issue.expected ?? 'another value'}; choose another sampler.`,
  );
}

export const flag = (standard: boolean) => v.optional(v.nullable(v.boolean(), standard), standard);

/** An option of diffusers that is not implemented here: it must be off, as by default. */
export const off = () => v.optional(v.nullable(v.literal(false), false), false);

const finite = (standard: number) => v.optional(v.pipe(v.number(), v.finite()), standard);

/** The keys common to all of diffusers' schedulers. */
export const tableEntries = {
  num_train_timesteps: v.optional(v.pipe(v.number(), v.integer(), v.minValue(2), v.maxValue(10_000)), 1000),
  beta_start: finite(0.0001),
  beta_end: finite(0.02),
  beta_schedule: v.optional(v.picklist(['linear', 'scaled_linear', 'squaredcos_cap_v2']), 'linear'),
  trained_betas: v.optional(v.nullable(v.array(v.pipe(v.number(), v.minValue(0), v.maxValue(1)))), null),
};

export const spacing = (standard: 'leading' | 'trailing' | 'linspace') =>
  v.optional(v.picklist(['leading', 'trailing', 'linspace']), standard);

export const stepsOffset = () => v.optional(v.pipe(v.number(), v.integer(), v.minValue(0)), 0);

/** The same configuration of a flow with this shift for pictures of any size, as distilled models and LoRAs (Lightning) ask for. */
export function withShift({ className, values }: SchedulerConfig, shift: number | undefined): SchedulerConfig {
  return shift === undefined
    ? { className, values }
    : { className, values: { ...values, shift, use_dynamic_shifting: false, shift_terminal: null } };
}
