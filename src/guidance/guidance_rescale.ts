/**
 * Classifier-free guidance rescaled to the standard deviation of the prompt's own prediction, which avoids the harsh contrast of high scales: §3.4 of
 * https://arxiv.org/abs/2305.08891, as diffusers' `rescale_noise_cfg`.
 */
import { guidance as cfg } from './cfg.ts';
import type { Guidance, GuidanceWeights, Moments } from './guidance.ts';

export const guidance: Guidance = {
  id: 'guidance_rescale',
  weights(moments, scale, amount) {
    const plain = cfg.weights(moments, scale, 1);
    const spread = Math.sqrt(variance(moments, plain));
    const wanted = Math.sqrt(variance(moments, { c: 1, u: 0 }));
    const factor = spread > 0 ? amount * (wanted / spread) + 1 - amount : 1;
    return { c: factor * plain.c, u: factor * plain.u };
  },
};

/** Of the elements of a weighted sum. */
function variance({ count, c, u, cc, cu, uu }: Moments, weights: GuidanceWeights): number {
  const mean = (weights.c * c + weights.u * u) / count;
  const square = (weights.c ** 2 * cc + 2 * weights.c * weights.u * cu + weights.u ** 2 * uu) / count;
  return Math.max(0, square - mean ** 2);
}
