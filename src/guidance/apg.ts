/**
 * Adaptive projected guidance, which takes from what guidance adds the part along the prompt's own prediction, as that is what makes pictures
 * harsh at high scales: https://arxiv.org/abs/2410.02416, as diffusers' AdaptiveProjectedGuidance without momentum.
 *
 * The projection of d = c − u on c is c · (d · c) / (c · c), so that the result is a weighted sum of c and u like any other.
 */
import type { Guidance } from './guidance.ts';

export const guidance: Guidance = {
  id: 'apg',
  weights({ cc, cu, uu }, scale, { apg_eta: eta, apg_norm_threshold: longest }) {
    const length = Math.sqrt(Math.max(0, cc - 2 * cu + uu));
    const strength = scale * (longest > 0 && length > longest ? longest / length : 1);
    const along = cc > 0 ? (cc - cu) / cc : 0;
    return { c: strength * (1 - (1 - eta) * along), u: 1 - strength };
  },
};
