/** DPM-Solver-2: https://arxiv.org/abs/2206.00927, algorithm 1, using the slope at the midpoint in ln σ. Two network calls per step. */
import { along, stepFrom, type Point, type Sampler, type Step, type StepNoise } from './sampler.ts';

export const sampler: Sampler = {
  id: 'dpm_2',
  plan: ({ points, targets, at }) => ({
    steps: points.flatMap((from, i) => throughMiddle(from, targets[i], at(Math.sqrt(from.noise * targets[i].noise)))),
    historyLength: 1,
  }),
};

/**
 * @param scale multiplies x at the end, before `noise` is added
 */
export function throughMiddle(
  from: Point,
  to: { alpha: number; sigma: number },
  middle: Point,
  scale = 1,
  noise: StepNoise | null = null,
): Step[] {
  if (to.sigma === 0) {
    return [stepFrom(from, along(from, to))];
  }
  const length = scale * (to.sigma - from.sigma);
  return [
    stepFrom(from, { ...along(from, middle), remember: { x: 1, denoised: 0 } }),
    stepFrom(middle, { x: length / middle.sigma, denoised: -length / middle.sigma, history: [scale], noise }),
  ];
}
