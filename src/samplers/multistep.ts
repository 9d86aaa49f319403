/** Samplers that also use the slopes of earlier steps. */
import { stepFrom, type Point, type SolverPlan } from './sampler.ts';
import { LANDING, alongSlopes, ratioOf, slope } from './slope.ts';

/**
 * @param order the most slopes that a step uses, at most 4
 * @param weightsOf lengths along the slopes for the step that leaves `points[i]`, its own first; `ratios` holds σ by point and after the
 *   last step
 * @param earlier points before the first whose slopes count as 0
 * @param lands whether a step to a level without noise goes to the predicted picture, whatever the weights
 */
export function multistep(
  points: readonly Point[],
  targets: readonly Point[],
  order: number,
  weightsOf: (ratios: readonly number[], i: number, known: number) => readonly number[],
  { earlier = [], lands = true }: { earlier?: readonly Point[]; lands?: boolean } = {},
): SolverPlan {
  const ratios = [...earlier, ...points, ...targets.slice(-1)].map(ratioOf);
  return {
    steps: points.map((from, i) => {
      const to = targets[i];
      const place = earlier.length + i;
      const [now, ...before] = weightsOf(ratios, place, Math.min(place + 1, order)).slice(0, i + 1);
      const move = lands && to.sigma === 0 ? LANDING : alongSlopes(from, to, now, before);
      return stepFrom(from, { ...move, remember: slope(from) });
    }),
    historyLength: order - 1,
  };
}
