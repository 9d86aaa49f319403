/** UniPC with B(h) = e^h − 1 on a flow: https://arxiv.org/abs/2302.04867, as diffusers has it for Wan. */
import type { Sampler } from './sampler.ts';
import { unifiedPredictorCorrector } from './unified.ts';

/** The share of the picture in pure noise, as its logarithm is taken: diffusers keeps the noisiest level so far below 1. */
export const LEAST_PICTURE = 1e-6;

export const sampler: Sampler = {
  id: 'uni_pc_flow',
  ofDiffusers: true,
  readsFlow: true,
  plan(course) {
    // A schedule of the person's choice may begin with pure noise.
    const points = course.points.map((point) =>
      point.alpha === 0 ? { ...course.at(1 - LEAST_PICTURE), timestep: point.timestep } : point,
    );
    return unifiedPredictorCorrector({ ...course, points }, (h) => Math.expm1(-h));
  },
};
