/**
 * CFG-Zero*, which guides away from the share of the negative prompt's prediction that lies along the prompt's:
 * https://arxiv.org/abs/2503.18886, as diffusers' ClassifierFreeZeroStarGuidance without its first steps of nothing (`zero_init_steps=0`), as in ComfyUI.
 */
import type { Guidance } from './guidance.ts';

/** The reference's, against a prediction of nothing. */
const LEAST = 1e-8;

export const guidance: Guidance = {
  id: 'cfg_zero_star',
  weights({ cu, uu }, scale) {
    return { c: scale, u: (1 - scale) * (cu / (uu + LEAST)) };
  },
};
