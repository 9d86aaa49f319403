/** The noise levels that a checkpoint was trained on. */
import { StudioError } from '../core/errors.ts';

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
  /** ᾱ, the picture's share of the variance, descending; f32 values, as in diffusers. */
  alphasCumprod: Float64Array;
  /** σ = √((1−ᾱ)/ᾱ), ascending and finite; f32 values. */
  sigmas: Float64Array;
}

const f = Math.fround;

/** Smallest ᾱ that σ is computed from: diffusers' Euler and DPM use it where zero terminal SNR would make σ infinite. */
const SMALLEST_ALPHA = 2 ** -24;

/**
 * Computed as in the constructors of diffusers' schedulers, rounding to f32 where they do.
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
        `This checkpoint's scheduler_config.json gives ${settings.trained_betas.length} trained_betas for ${n} timesteps, which cannot be right.`,
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

/** Entry `i` of torch.linspace in f32, which counts from the nearer end with fused multiply-add. */
function torchLinspace(start: number, end: number, n: number, i: number): number {
  const step = f(f(f(end) - f(start)) / (n - 1));
  return i < n >> 1 ? f(f(start) + step * i) : f(f(end) - step * (n - 1 - i));
}

/** Like torch.cumprod on f32: accumulated in f64, stored as f32. */
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

/** σ at a fractional timestep, interpolated linearly and clamped at both ends, like numpy.interp. */
export function sigmaAt(table: NoiseTable, timestep: number): number {
  const t = Math.min(Math.max(timestep, 0), table.length - 1);
  const low = Math.min(Math.floor(t), table.length - 2);
  const a = table.sigmas[low];
  const b = table.sigmas[low + 1];
  return a + (b - a) * (t - low);
}

/** The fractional timestep of a σ > 0, interpolated linearly in log σ (diffusers' `_sigma_to_t`). */
export function positionOf(table: NoiseTable, sigma: number): number {
  const last = table.sigmas.findLastIndex((level) => level <= sigma);
  const low = Math.min(Math.max(last, 0), table.length - 2);
  const a = Math.log(table.sigmas[low]);
  const b = Math.log(table.sigmas[low + 1]);
  return low + Math.min(Math.max((Math.log(sigma) - a) / (b - a), 0), 1);
}

/** σ at a fractional timestep, interpolated linearly in log σ, as in ComfyUI. */
export function sigmaLogAt({ sigmas }: NoiseTable, timestep: number): number {
  const low = Math.floor(timestep);
  const a = Math.log(sigmas[low]);
  const b = Math.log(sigmas[Math.ceil(timestep)]);
  return Math.exp(a + (b - a) * (timestep - low));
}
