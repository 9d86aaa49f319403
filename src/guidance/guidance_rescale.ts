/**
 * Guidance rescaled to the standard deviation of the prompt's own prediction, which avoids the harsh contrast of high scales: §3.4 of
 * https://arxiv.org/abs/2305.08891, as diffusers' `rescale_noise_cfg`.
 */
import type { GuidanceWeights, Moments } from './guidance.ts';

/**
 * @param weights of a method of guidance
 * @param amount how far to go, 0 … 1
 */
export function rescaled(moments: Moments, weights: GuidanceWeights, amount: number): GuidanceWeights {
  const spread = Math.sqrt(variance(moments, weights));
  const wanted = Math.sqrt(variance(moments, { c: 1, u: 0 }));
  const factor = spread > 0 ? amount * (wanted / spread) + 1 - amount : 1;
  return { c: factor * weights.c, u: factor * weights.u };
}

/** Of the elements of a weighted sum. */
function variance({ count, c, u, cc, cu, uu }: Moments, weights: GuidanceWeights): number {
  const mean = (weights.c * c + weights.u * u) / count;
  const square = (weights.c ** 2 * cc + 2 * weights.c * weights.u * cu + weights.u ** 2 * uu) / count;
  return Math.max(0, square - mean ** 2);
}
