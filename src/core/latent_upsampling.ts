/**
 * What becomes of a video's latents between two passes, when another network has doubled their sides.
 * Reference: diffusers/pipelines/ltx/pipeline_ltx_latent_upsample.py
 */
import type { LatentScales } from './model.ts';

/** Full strength of tone mapping, and how steep and deep it is. */
const [STRONGEST, STEEPNESS, DEPTH] = [0.75, 4, 0.8];

/** Latents as sampling has them, as the autoencoder does. @param data [channels, …] */
export function unscaled(data: Float32Array, { mean, deviation }: LatentScales): Float32Array<ArrayBuffer> {
  const each = data.length / mean.length;
  return Float32Array.from(data, (value, i) => value * deviation[Math.floor(i / each)] + mean[Math.floor(i / each)]);
}

/** The way back from {@link unscaled}. */
export function scaled(data: Float32Array, { mean, deviation }: LatentScales): Float32Array<ArrayBuffer> {
  const each = data.length / mean.length;
  return Float32Array.from(data, (value, i) => (value - mean[Math.floor(i / each)]) / deviation[Math.floor(i / each)]);
}

/**
 * Gives each channel the mean and spread that it had before (adaptive instance normalisation).
 * @param data [channels, …], as `like`
 * @param share of what changes: 0 = nothing, 1 = all
 */
export function likeBefore(
  data: Float32Array,
  like: Float32Array,
  channels: number,
  share: number,
): Float32Array<ArrayBuffer> {
  const made = new Float32Array(data);
  const [each, before] = [data.length / channels, like.length / channels];
  for (let channel = 0; channel < channels; channel++) {
    const own = data.subarray(channel * each, (channel + 1) * each);
    const [now, then] = [spreadOf(own), spreadOf(like.subarray(channel * before, (channel + 1) * before))];
    own.forEach((value, i) => {
      const moved = ((value - now.mean) / now.deviation) * then.deviation + then.mean;
      made[channel * each + i] = value + share * (moved - value);
    });
  }
  return made;
}

/** Makes large values smaller. @param ratio from 0, not at all, to 1 */
export function toneMapped(data: Float32Array, ratio: number): Float32Array<ArrayBuffer> {
  const strength = STRONGEST * ratio;
  return Float32Array.from(
    data,
    (value) => value * (1 - (DEPTH * strength) / (1 + Math.exp(-STEEPNESS * strength * (Math.abs(value) - 1)))),
  );
}

/** As torch.std_mean counts: over one less than there are. */
function spreadOf(values: Float32Array): { mean: number; deviation: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) };
}
