/**
 * The probability flow dx/dσ = (x − x0)/σ of https://arxiv.org/abs/2206.00364, for samplers that integrate it over σ, where x is the
 * picture at full scale plus σ times noise. At other scales the same holds for x/α and σ/α.
 */
import type { Mix, Point } from './sampler.ts';

/** σ at full scale. */
export function ratioOf({ alpha, sigma }: Point): number {
  return sigma / alpha;
}

/** Weights of x and of the predicted picture in the slope at a point. */
export function slope({ alpha, sigma }: Point): { x: number; denoised: number } {
  return { x: 1 / sigma, denoised: -alpha / sigma };
}

/**
 * A step along slopes: x' = α' · (x/α + now · slope + Σ before[k] · H[k]), where H holds slopes of earlier steps.
 * @param now step length times the weight of this point's slope
 */
export function alongSlopes(from: Point, to: Point, now: number, before: readonly number[] = []): Mix {
  const { x, denoised } = slope(from);
  return {
    x: to.alpha * (1 / from.alpha + now * x),
    denoised: to.alpha * now * denoised,
    history: before.map((weight) => to.alpha * weight),
  };
}

/** The last step: the predicted picture itself. */
export const LANDING: Mix = { x: 0, denoised: 1 };
