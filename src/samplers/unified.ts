/**
 * The unified predictor-corrector framework, https://arxiv.org/abs/2302.04867, algorithms 5 and 6: each call of the network also corrects the step that led
 * there.
 */
import { solve } from './linear_system.ts';
import { PICTURE, stepFrom, type Course, type SolverPlan } from './sampler.ts';

const ORDER = 3;

/** Where the way ends in place of a level without noise, whose λ is infinite. */
const LAST_NOISE = 0.001;

/** @param b B(h) of the paper, of a step h in λ, for a network that predicts pictures */
export function unifiedPredictorCorrector({ points, targets, at }: Course, b: (h: number) => number): SolverPlan {
  const count = points.length;
  const last = targets[count - 1];
  const ends = [...points, last.sigma === 0 ? at(LAST_NOISE) : last];
  const most = Math.max(1, Math.min(ORDER, count - 1));
  /** Of the step that ends at ends[i], by what is added to x for the pictures of ends[i], ends[i − 1], … */
  const terms = (i: number) => {
    const [from, to] = [ends[i - 1], ends[i]];
    const h = to.lambda - from.lambda;
    const order = i < most ? i : Math.min(most, count + 1 - i);
    const ratios = Array.from({ length: order - 1 }, (_, k) => (ends[i - 2 - k].lambda - from.lambda) / h);
    const system = systemOf([...ratios, 1], h, b(h));
    const predictor =
      order === 1
        ? []
        : order === 2
          ? [0.5]
          : solve(
              system.rows.slice(0, -1).map((row) => row.slice(0, -1)),
              system.right.slice(0, -1),
            );
    const corrector = order === 1 ? [0.5] : solve(system.rows, system.right);
    const scale = -to.alpha * b(h);
    return {
      predicted: weightsOf(ratios, predictor, scale, 0),
      corrected: weightsOf(ratios, corrector, scale, corrector[order - 1]),
    };
  };
  return {
    steps: points.map((from, i) => {
      const weights = [0, 0, 0, 0];
      const to = ends[i + 1];
      const x = to.sigma / from.sigma;
      if (i > 0) {
        const { predicted, corrected } = terms(i);
        corrected.forEach((weight, k) => (weights[k] += x * (weight - predicted[k])));
      }
      weights[0] += to.alpha * -Math.expm1(from.lambda - to.lambda);
      terms(i + 1)
        .predicted.slice(1)
        .forEach((weight, k) => (weights[k] += weight));
      // ComfyUI takes the last of a flow for what it is, x = (1 − σ) · x0 + σ · noise, and enlarges x0.
      const enlarged = i === count - 1 ? 1 / to.level.alpha : 1;
      return stepFrom(from, {
        x: enlarged * x,
        denoised: enlarged * weights[0],
        history: weights.slice(1, i + 1).map((weight) => enlarged * weight),
        remember: PICTURE,
      });
    }),
    historyLength: ORDER,
  };
}

/** Rows of powers of `ratios`, and what they are to sum up to. */
function systemOf(ratios: readonly number[], h: number, scale: number): { rows: number[][]; right: number[] } {
  const rows: number[][] = [];
  const right: number[] = [];
  let factorial = 1;
  let phi = Math.expm1(-h) / -h - 1;
  for (let i = 1; i <= ratios.length; i++) {
    rows.push(ratios.map((ratio) => ratio ** (i - 1)));
    right.push((phi * factorial) / scale);
    factorial *= i + 1;
    phi = phi / -h - 1 / factorial;
  }
  return { rows, right };
}

/**
 * Weights of the pictures: that of the step's end, of its beginning, and of those before.
 * @param latest weight of the difference between end and beginning
 */
function weightsOf(ratios: readonly number[], rhos: readonly number[], scale: number, latest: number): number[] {
  const earlier = ratios.map((ratio, k) => (scale * (rhos[k] ?? 0)) / ratio);
  const sum = earlier.reduce((total, weight) => total + weight, 0);
  return [scale * latest, -sum - scale * latest, ...earlier];
}
