/** UniPC of third order with B(h) = e^h − 1: https://arxiv.org/abs/2302.04867, as ComfyUI has it. */
import type { Sampler } from './sampler.ts';
import { unifiedPredictorCorrector } from './unified.ts';

export const sampler: Sampler = {
  id: 'uni_pc_bh2',
  plan: (course) => unifiedPredictorCorrector(course, (h) => Math.expm1(-h)),
};
