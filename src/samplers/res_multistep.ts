/** Second-order refined exponential solver: https://arxiv.org/abs/2308.02157, as in ComfyUI. */
import { PICTURE, stepFrom, type Mix, type Point, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'res_multistep',
  plan: ({ points, targets }) => ({
    steps: points.map((from, i) =>
      stepFrom(from, { ...refined(points, i, targets[i], targets[i - 1]), remember: PICTURE }),
    ),
    historyLength: 1,
  }),
};

/**
 * The deterministic step from `points[i]` to a level.
 * @param before where the previous step ended, before its noise was added
 */
export function refined(
  points: readonly Point[],
  i: number,
  to: { alpha: number; sigma: number },
  before: { alpha: number; sigma: number } | undefined,
): Mix & { history: number[] } {
  const from = points[i];
  const x = to.sigma / from.sigma;
  if (to.sigma === 0 || i === 0 || !before) {
    return { x, denoised: to.alpha - from.alpha * x, history: [] };
  }
  const lambdaOf = ({ alpha, sigma }: { alpha: number; sigma: number }) => Math.log(alpha / sigma);
  const h = lambdaOf(to) - from.lambda;
  const c = (points[i - 1].lambda - lambdaOf(before)) / h;
  const phi1 = Math.expm1(-h) / -h;
  const phi2 = (phi1 - 1) / -h;
  return { x, denoised: to.alpha * h * (phi1 - phi2 / c), history: [(to.alpha * h * phi2) / c] };
}
