/** Samplers that go on along the slopes of earlier steps as well. */
import { stepFrom, type Point, type SolverPlan } from './sampler.ts';
import { LANDING, alongSlopes, ratioOf, slope } from './slope.ts';

/**
 * @param order the most slopes that a step uses, at most 4
 * @param weightsOf lengths along the slopes for the step that leaves `points[i]`, its own first; `ratios` holds σ by point and after the
 *   last step
 */
export function multistep(
  points: readonly Point[],
  targets: readonly Point[],
  order: number,
  weightsOf: (ratios: readonly number[], i: number, known: number) => readonly number[],
): SolverPlan {
  const ratios = [...points.map(ratioOf), ...targets.slice(-1).map(ratioOf)];
  return {
    steps: points.map((from, i) => {
      const to = targets[i];
      const [now, ...before] = weightsOf(ratios, i, Math.min(i + 1, order));
      const move = to.sigma === 0 ? LANDING : alongSlopes(from, to, now, before);
      return stepFrom(from, { ...move, remember: slope(from) });
    }),
    historyLength: order - 1,
  };
}
