/** For samplers that compute in λ = ln(α/σ), which is infinite where a flow starts in pure noise. */
import type { Course, Point } from './sampler.ts';

/** The share of training time skipped there (ComfyUI). */
const SHARE = 1e-4;

/** The points of a course, the first of which is a little after pure noise. */
export function withFiniteLambda({
  points,
  at,
  noiseAfter,
}: Pick<Course, 'points' | 'at' | 'noiseAfter'>): readonly Point[] {
  const [first, ...rest] = points;
  return Number.isFinite(first.lambda) ? points : [{ ...at(noiseAfter(SHARE)), level: first.level }, ...rest];
}

/** The predicted picture's share in a stochastic step of length h in λ: (1 − e^(−2h)) of its variance is new. */
export function stochastic(
  from: Point,
  to: Point,
): { x: number; denoised: number; noise: { scale: number; from: number; to: number } } {
  const h = to.lambda - from.lambda;
  return {
    x: (to.sigma / from.sigma) * Math.exp(-h),
    denoised: to.alpha * -Math.expm1(-2 * h),
    noise: { scale: to.sigma * Math.sqrt(-Math.expm1(-2 * h)), from: from.noise, to: to.noise },
  };
}
