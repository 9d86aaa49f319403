/** Quantiles of the symmetric beta distribution, for schedules placed by them. */

/** Enough for the last bits of an f64 in [0, 1]. */
const BISECTIONS = 60;
const POINTS = 64;

/** The x below which the share `probability`, from 0 to 1, lies. @param shape α = β, above 0 and at most 1 */
export function betaQuantile(probability: number, shape: number): number {
  if (probability === 0.5) {
    return 0.5;
  }
  if (probability > 0.5) {
    return 1 - betaQuantile(1 - probability, shape);
  }
  const whole = 2 * below(0.5, shape);
  let [low, high] = [0, 0.5];
  for (let i = 0; i < BISECTIONS; i++) {
    const middle = (low + high) / 2;
    if (below(middle, shape) / whole < probability) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return (low + high) / 2;
}

/** The integral of (t · (1 − t))^(shape − 1) from 0 to x ≤ 1/2 by Simpson's rule, over u = t^shape, where it has no pole. */
function below(x: number, shape: number): number {
  const end = x ** shape;
  const step = end / POINTS;
  let sum = 0;
  for (let i = 0; i <= POINTS; i++) {
    const weight = i === 0 || i === POINTS ? 1 : i % 2 === 1 ? 4 : 2;
    sum += weight * (1 - (i * step) ** (1 / shape)) ** (shape - 1);
  }
  return (sum * step) / 3 / shape;
}
