/** Third-order UniPC with B(h) = h: https://arxiv.org/abs/2302.04867, as in ComfyUI. */
import type { Sampler } from './sampler.ts';
import { unifiedPredictorCorrector } from './unified.ts';

export const sampler: Sampler = {
  id: 'uni_pc',
  ofDiffusers: true,
  plan: (course) => unifiedPredictorCorrector(course, (h) => -h),
};
