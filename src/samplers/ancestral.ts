/**
 * Ancestral steps go below the next level and come back up to it with fresh noise, as in equation 11 of https://arxiv.org/abs/2010.02502
 * with η = 1. On a flow the picture's share shrinks on the way up, so x is scaled before the noise is added (ComfyUI's `_RF` samplers).
 */
import type { Course, Point, StepNoise } from './sampler.ts';

export interface AncestralStep {
  /** Where the deterministic part of the step ends. */
  down: { alpha: number; sigma: number };
  /** Scales x there before the noise is added. */
  scale: number;
  noise: StepNoise;
}

const f = Math.fround;

/**
 * The noise level halfway in ln σ between a level and the ancestral one below `to`, every operation in f32: with η = 1 it is `to` itself,
 * and the last bit may decide its timestep.
 * @param halfway the midpoint of two logarithms
 */
export function middleNoise(from: Point, to: Point, halfway: (a: number, b: number) => number): number {
  const [a, b] = [f(from.sigma), f(to.sigma)];
  const [a2, b2] = [f(a * a), f(b * b)];
  const up = Math.min(b, f(Math.sqrt(f(f(b2 * f(a2 - b2)) / a2))));
  const down = f(Math.sqrt(f(b2 - f(up * up))));
  return f(Math.exp(halfway(f(Math.log(a)), f(Math.log(down)))));
}

export function ancestral(from: Point, to: Point, at: Course['at']): AncestralStep {
  const noise = { scale: 0, from: from.noise, to: to.noise };
  if (to.sigma === 0) {
    return { down: { alpha: to.alpha, sigma: 0 }, scale: 1, noise };
  }
  const isFlow = to.alpha !== from.alpha;
  const sigma = to.sigma ** 2 / from.sigma;
  const alpha = isFlow ? at(sigma).alpha : to.alpha;
  const scale = to.alpha / alpha;
  const up = isFlow
    ? Math.sqrt(to.sigma ** 2 - (sigma * scale) ** 2)
    : (to.sigma / from.sigma) * Math.sqrt(from.sigma ** 2 - to.sigma ** 2);
  return { down: { alpha, sigma }, scale, noise: { ...noise, scale: up } };
}
