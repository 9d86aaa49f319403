/**
 * The unified predictor-corrector framework, https://arxiv.org/abs/2302.04867, algorithms 5 and 6: every network call also corrects the
 * step that led to it.
 */
import { solve } from './linear_system.ts';
import { PICTURE, stepFrom, type Course, type SolverPlan } from './sampler.ts';

/** As ComfyUI has it, which ends in front of a level without noise, as λ is infinite there. */
const USUAL = { order: 3, lastNoise: 0.001 };

/** @param b B(h) of the paper, of a step h in λ, for a network that predicts pictures */
export function unifiedPredictorCorrector(course: Course, b: (h: number) => number): SolverPlan {
  const { points, targets, at, options } = course;
  const { order: highest, lastNoise } = options.unified ?? USUAL;
  const count = points.length;
  const last = targets[count - 1];
  const ends = [...points, last.sigma === 0 && lastNoise > 0 ? at(lastNoise) : last];
  const most = Math.max(1, Math.min(highest, count - 1));
  /** The weights of the step to ends[i]: what it adds to x for the pictures at ends[i], ends[i − 1], … */
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
      // The step to a level without noise is of the first order: to the predicted picture itself.
      if (to.sigma > 0) {
        terms(i + 1)
          .predicted.slice(1)
          .forEach((weight, k) => (weights[k] += weight));
      }
      // ComfyUI treats a flow's last x as (1 − σ) · x0 + σ · noise and scales x0 up.
      const enlarged = i === count - 1 && lastNoise > 0 ? 1 / to.level.alpha : 1;
      return stepFrom(from, {
        x: enlarged * x,
        denoised: enlarged * weights[0],
        history: weights.slice(1, Math.min(i, highest) + 1).map((weight) => enlarged * weight),
        remember: PICTURE,
      });
    }),
    historyLength: highest,
  };
}

/** Rows of powers of `ratios`, and the sums required of them. */
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
 * Weights of the pictures at the step's end, at its start, and before.
 * @param latest weight of the difference between end and start
 */
function weightsOf(ratios: readonly number[], rhos: readonly number[], scale: number, latest: number): number[] {
  const earlier = ratios.map((ratio, k) => (scale * (rhos[k] ?? 0)) / ratio);
  const sum = earlier.reduce((total, weight) => total + weight, 0);
  return [scale * latest, -sum - scale * latest, ...earlier];
}
