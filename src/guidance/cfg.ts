/** Classifier-free guidance, m = u + g · (c − u): https://arxiv.org/abs/2207.12598 */
import type { Guidance } from './guidance.ts';

export const guidance: Guidance = {
  id: 'cfg',
  weights: (_, scale) => ({ c: scale, u: 1 - scale }),
};
