/**
 * Reads scheduler_config.json and makes the table of noise levels that a checkpoint was trained on.
 * Every sampler file reads the keys that its diffusers class reads, with that class's own defaults for missing ones.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';

export type Prediction = 'epsilon' | 'v_prediction' | 'sample';

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
 * The same configuration with another prediction, or with noise levels that end in pure noise (or no longer do), where somebody says so.
 * Such levels are sampled from their last timestep on, as their authors ask (§3.3 of https://arxiv.org/abs/2305.08891), and by DDIM where
 * the checkpoint's own is PNDM, which does not know them.
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
 * @throws StudioError `checkpoint_unsupported` with one sentence that names the first key which is not understood
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

/** A switch that diffusers has and this sampler has not: it must be off, as it is by default. */
export const off = () => v.optional(v.nullable(v.literal(false), false), false);

const finite = (standard: number) => v.optional(v.pipe(v.number(), v.finite()), standard);

/** The keys that all of diffusers' schedulers share. */
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

export interface TableSettings {
  num_train_timesteps: number;
  beta_start: number;
  beta_end: number;
  beta_schedule: 'linear' | 'scaled_linear' | 'squaredcos_cap_v2';
  trained_betas: number[] | null;
  rescale_betas_zero_snr?: boolean;
}

/** Noise levels by training timestep. */
export interface NoiseTable {
  /** Number of training timesteps. */
  length: number;
  /** ᾱ, the share of the picture in the variance, falling; f32 values as diffusers keeps them. */
  alphasCumprod: Float64Array;
  /** σ = √((1−ᾱ)/ᾱ), rising and finite; f32 values. */
  sigmas: Float64Array;
}

const f = Math.fround;

/** Smallest ᾱ of a σ: diffusers' Euler and DPM put it where zero terminal SNR would make σ infinite. */
const SMALLEST_ALPHA = 2 ** -24;

/**
 * As the constructors of diffusers' schedulers do it, with f32 roundings where they keep f32.
 * @throws StudioError `checkpoint_unsupported` if `trained_betas` has another length than the table
 */
export function noiseTable(settings: TableSettings): NoiseTable {
  let betas = betasOf(settings);
  if (settings.rescale_betas_zero_snr) {
    betas = rescaleToZeroTerminalSnr(betas);
  }
  const alphasCumprod = cumulativeProduct(betas);
  const sigmas = alphasCumprod.map((alpha) => {
    const a = Math.max(alpha, SMALLEST_ALPHA);
    return f(Math.sqrt(f(f(1 - a) / a)));
  });
  return { length: betas.length, alphasCumprod, sigmas };
}

function betasOf(settings: TableSettings): Float64Array {
  const n = settings.num_train_timesteps;
  if (settings.trained_betas) {
    if (settings.trained_betas.length !== n) {
      throw new StudioError(
        'checkpoint_unsupported',
        `This checkpoint's ${FILE} gives ${settings.trained_betas.length} trained_betas for ${n} timesteps, which cannot be right.`,
      );
    }
    return Float64Array.from(settings.trained_betas, f);
  }
  const { beta_start: start, beta_end: end } = settings;
  const make = {
    linear: (i: number) => torchLinspace(start, end, n, i),
    scaled_linear: (i: number) => f(torchLinspace(Math.sqrt(start), Math.sqrt(end), n, i) ** 2),
    // The cosine schedule of https://arxiv.org/abs/2102.09672.
    squaredcos_cap_v2: (i: number) => {
      const bar = (t: number) => Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2;
      return f(Math.min(1 - bar((i + 1) / n) / bar(i / n), 0.999));
    },
  }[settings.beta_schedule];
  return Float64Array.from({ length: n }, (_, i) => make(i));
}

/** Entry `i` of torch.linspace in f32: counted from the nearer end, with fused multiply-add. */
function torchLinspace(start: number, end: number, n: number, i: number): number {
  const step = f(f(f(end) - f(start)) / (n - 1));
  return i < n >> 1 ? f(f(start) + step * i) : f(f(end) - step * (n - 1 - i));
}

/** Like torch.cumprod on f32: summed up in f64, kept in f32. */
function cumulativeProduct(betas: Float64Array): Float64Array {
  let product = 1;
  return betas.map((beta) => f((product *= f(1 - beta))));
}

/** Algorithm 1 of https://arxiv.org/abs/2305.08891. */
function rescaleToZeroTerminalSnr(betas: Float64Array): Float64Array {
  const roots = cumulativeProduct(betas).map((alpha) => f(Math.sqrt(alpha)));
  const first = roots[0];
  const last = roots[roots.length - 1];
  const scale = f(first / f(first - last));
  const bars = roots.map((root) => f(f(f(root - last) * scale) ** 2));
  return bars.map((bar, i) => f(1 - (i === 0 ? bar : f(bar / bars[i - 1]))));
}

/** σ at a fractional timestep, linear between entries; beyond the ends the outermost value, like numpy.interp. */
export function sigmaAt(table: NoiseTable, timestep: number): number {
  const t = Math.min(Math.max(timestep, 0), table.length - 1);
  const low = Math.min(Math.floor(t), table.length - 2);
  const a = table.sigmas[low];
  const b = table.sigmas[low + 1];
  return a + (b - a) * (t - low);
}

/** The fractional timestep of a σ > 0, linear in log σ (`_sigma_to_t` of diffusers). */
export function positionOf(table: NoiseTable, sigma: number): number {
  const last = table.sigmas.findLastIndex((level) => level <= sigma);
  const low = Math.min(Math.max(last, 0), table.length - 2);
  const a = Math.log(table.sigmas[low]);
  const b = Math.log(table.sigmas[low + 1]);
  return low + Math.min(Math.max((Math.log(sigma) - a) / (b - a), 0), 1);
}
