/**
 * Second-order Heun++: the slopes of two or three points, weighted by their noise levels, as in ComfyUI
 * (https://github.com/Carzit/sd-webui-samplers-scheduler). Up to three network calls per step.
 */
import { stepFrom, type Mix, type Point, type Sampler, type Step } from './sampler.ts';
import { alongSlopes, ratioOf, slope } from './slope.ts';

export const sampler: Sampler = {
  id: 'heunpp2',
  plan: ({ points, targets }) => {
    const ends = [...points, ...targets.slice(-1)];
    const last = ratioOf(ends[ends.length - 1]);
    const steps = points.flatMap((from, i): Step[] => {
      const visited = [from, ...ends.slice(i + 1, i + 3).filter((point) => ratioOf(point) !== last)];
      const to = ends[i + 1];
      const length = ratioOf(to) - ratioOf(from);
      const most = visited.length * ratioOf(points[0]);
      const weights = visited.map((point, k) => (k === 0 ? 0 : ratioOf(point) / most));
      weights[0] = 1 - weights.reduce((sum, weight) => sum + weight, 0);
      // The history holds the step so far: x and the weighted slopes known yet.
      return visited.map((point, k) => {
        const weighted = alongSlopes(point, to, weights[k] * length);
        const known: Mix = k === 0 ? weighted : addedTo(point, to, weights[k] * length);
        const next = visited[k + 1] as Point | undefined;
        return next
          ? stepFrom(point, { ...alongSlopes(point, next, ratioOf(next) - ratioOf(point)), remember: known })
          : stepFrom(point, known);
      });
    });
    return { steps, historyLength: 1 };
  },
};

/** The history entry plus a length along the slope here. */
function addedTo(point: Point, to: Point, length: number): Mix {
  const { x, denoised } = slope(point);
  return { x: to.alpha * length * x, denoised: to.alpha * length * denoised, history: [1] };
}
