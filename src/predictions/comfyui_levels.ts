/**
 * Noise levels of ComfyUI's model types (comfy/model_sampling.py): computed in f64 where diffusers uses f32, with ComfyUI's own last level
 * for zero SNR.
 */
import type { NoiseTable, TableSettings } from './noise_table.ts';

/** ᾱ of the last level, in place of 0. */
const LAST_ALPHA = 4.8973451890853435e-8;

/** ModelSamplingDiscrete. */
export function discreteLevels(settings: TableSettings): NoiseTable {
  let product = 1;
  let alphas = betasOf(settings).map((beta) => (product *= 1 - beta));
  if (settings.rescale_betas_zero_snr) {
    const roots = alphas.map(Math.sqrt);
    const [first, last] = [roots[0], roots[roots.length - 1]];
    alphas = roots.map((root) => (((root - last) * first) / (first - last)) ** 2);
    alphas[alphas.length - 1] = LAST_ALPHA;
  }
  return {
    length: alphas.length,
    alphasCumprod: Float64Array.from(alphas),
    sigmas: Float64Array.from(alphas, (alpha) => Math.fround(Math.sqrt((1 - alpha) / alpha))),
  };
}

/**
 * Converts between timesteps and the noise levels of {@link discreteLevels}. Logarithms are f32: their last bit often decides which of two
 * timesteps is nearest.
 */
export function discreteTime({ length, alphasCumprod }: NoiseTable) {
  const f = Math.fround;
  const logs = Float32Array.from(alphasCumprod, (alpha) => Math.log((1 - alpha) / alpha) / 2);
  return {
    timestepAt(noise: number): number {
      const log = f(Math.log(f(noise)));
      const above = Math.max(1, Math.min(length - 1, firstAbove(logs, log)));
      const nearest = f(logs[above] - log) < f(log - logs[above - 1]) ? above : above - 1;
      return nearest;
    },
    time: {
      first: length - 1,
      last: 0,
      noiseAt(time: number): number {
        const t = f(time);
        const share = f(t - Math.floor(t));
        const log = f(f(f(1 - share) * logs[Math.floor(t)]) + f(share * logs[Math.ceil(t)]));
        return f(Math.exp(log));
      },
    },
  };
}

/** Index of the first of these ascending values that exceeds `value`, or their count if none does. */
function firstAbove(rising: Float32Array, value: number): number {
  let [low, high] = [0, rising.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rising[middle] > value) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

function betasOf({
  num_train_timesteps: n,
  beta_start,
  beta_end,
  beta_schedule,
  trained_betas,
}: TableSettings): number[] {
  if (trained_betas) {
    return trained_betas;
  }
  const ramp = (start: number, end: number, i: number) => start + (i * (end - start)) / (n - 1);
  return Array.from({ length: n }, (_, i) => {
    switch (beta_schedule) {
      case 'linear':
        return ramp(beta_start, beta_end, i);
      case 'scaled_linear':
        return ramp(Math.sqrt(beta_start), Math.sqrt(beta_end), i) ** 2;
      case 'squaredcos_cap_v2': {
        const bar = (t: number) => Math.cos((((t / n + 0.008) / 1.008) * Math.PI) / 2) ** 2;
        return Math.min(1 - bar(i + 1) / bar(i), 0.999);
      }
    }
  });
}

/** ModelSamplingDiscreteFlow: σ as a function of training time from 0 to 1, shifted towards noise by `shift`. */
export function shiftedTime(shift: number, time: number): number {
  return (shift * time) / (1 + (shift - 1) * time);
}

export function flowLevels(shift: number, length: number): NoiseTable {
  const sigmas = Float64Array.from({ length }, (_, i) => Math.fround(shiftedTime(shift, (i + 1) / length)));
  return { length, sigmas, alphasCumprod: sigmas.map((sigma) => 1 - sigma) };
}
