/** UniPC of third order with B(h) = h: https://arxiv.org/abs/2302.04867, as ComfyUI has it. */
import type { Sampler } from './sampler.ts';
import { unifiedPredictorCorrector } from './unified.ts';

export const sampler: Sampler = {
  id: 'uni_pc',
  plan: (course) => unifiedPredictorCorrector(course, (h) => -h),
};
