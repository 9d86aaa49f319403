/** Third-order UniPC with B(h) = e^h − 1: https://arxiv.org/abs/2302.04867, as in ComfyUI. */
import type { Sampler } from './sampler.ts';
import { unifiedPredictorCorrector } from './unified.ts';

export const sampler: Sampler = {
  id: 'uni_pc_bh2',
  ofDiffusers: true,
  plan: (course) => unifiedPredictorCorrector(course, (h) => Math.expm1(-h)),
};
