/**
 * Stochastic Adams solver with a third-order predictor and a fourth-order corrector, https://arxiv.org/abs/2309.05019. As in ComfyUI, it is
 * stochastic between 20 % and 80 % of training time.
 */
import { solve } from './linear_system.ts';
import { PICTURE, stepFrom, type Point, type Sampler } from './sampler.ts';
import { withFiniteLambda } from './snr.ts';

const PREDICTOR = 3;
const CORRECTOR = 4;

export const sampler: Sampler = {
  id: 'sa_solver',
  addsNoise: true,
  readsFlow: true,
  plan: (course) => {
    const { targets, noiseAfter } = course;
    const points = withFiniteLambda(course);
    const count = points.length;
    const tauOf = ({ noise }: Point) => (noise <= noiseAfter(0.2) && noise >= noiseAfter(0.8) ? 1 : 0);
    // Fewer pictures are used near an end without noise.
    const left = targets[count - 1].sigma === 0 ? (i: number) => count - i : () => Infinity;
    /** Weights of the pictures predicted at points[i], points[i − 1], … */
    const predictor = (i: number) => {
      const order = Math.min(PREDICTOR, i + 1, left(i) - 1);
      return adams(points, i, order, points[i], targets[i], tauOf(targets[i]));
    };
    return {
      steps: points.map((from, i) => {
        const to = targets[i];
        if (to.sigma === 0) {
          return stepFrom(from, { x: 0, denoised: to.alpha, remember: PICTURE });
        }
        // x is the predictor's result: replace its terms by the corrector's.
        const order = i === 0 ? 0 : Math.min(CORRECTOR, i + 1, left(i));
        const corrected = [0, 0, 0, 0];
        if (order > 0) {
          adams(points, i, order, points[i - 1], from, tauOf(from)).forEach((weight, k) => (corrected[k] += weight));
          predictor(i - 1).forEach((weight, k) => (corrected[k + 1] -= weight));
        }
        const tau = tauOf(to);
        const h = to.lambda - from.lambda;
        const x = (to.sigma / from.sigma) * Math.exp(-(tau ** 2) * h);
        const weights = corrected.map((weight) => x * weight);
        predictor(i).forEach((weight, k) => (weights[k] += weight));
        const scale = to.sigma * Math.sqrt(-Math.expm1(-2 * tau ** 2 * h));
        return stepFrom(from, {
          x,
          denoised: weights[0],
          history: weights.slice(1, i + 1),
          noise: { scale, from: from.noise, to: to.noise },
          remember: PICTURE,
        });
      }),
      historyLength: CORRECTOR - 1,
    };
  },
};

/** Equations 15 and 18: the integral over λ of the polynomial through the last `order` pictures, the one at points[i] first. */
function adams(points: readonly Point[], i: number, order: number, from: Point, to: Point, tau: number): number[] {
  const factor = 1 + tau ** 2;
  const [s, t] = [from.lambda, to.lambda];
  const integrals: number[] = [];
  for (let p = 0; p < order; p++) {
    const edge = t ** p - s ** p * Math.exp(-factor * (t - s));
    integrals.push(edge - (p === 0 ? 0 : (p / factor) * integrals[p - 1]));
  }
  const lambdas = Array.from({ length: order }, (_, k) => points[i - k].lambda);
  const powers = integrals.map((_, p) => lambdas.map((lambda) => lambda ** p));
  return solve(powers, integrals).map((weight) => to.alpha * weight);
}
