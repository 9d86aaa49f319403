/**
 * Pseudo linear multistep (PLMS): https://arxiv.org/abs/2202.09778, equations 9, 12 and 13, without Runge-Kutta steps; the scheduler of the
 * original Stable Diffusion 1.x repositories. x keeps unit variance; the history holds network outputs.
 */
import { StudioError } from '../core/errors.ts';
import type { Level, Pair } from '../predictions/prediction.ts';
import type { Point, Sampler, Step } from './sampler.ts';

/** Adams-Bashforth weights by number of known outputs, the current one first. */
export const ADAMS_BASHFORTH: readonly (readonly number[])[] = [
  [1],
  [3 / 2, -1 / 2],
  [23 / 12, -16 / 12, 5 / 12],
  [55 / 24, -59 / 24, 37 / 24, -9 / 24],
];

export const sampler: Sampler = {
  id: 'plms',
  ofDiffusers: true,
  plan({ points, grid, atTimestep: at }) {
    if (!grid) {
      throw uneven();
    }
    const { stride } = grid;
    const steps = points.map((point, call): Step => {
      const { timestep, inputScale, denoised, level } = point;
      const common = {
        timestep,
        level,
        inputScale,
        denoised,
        noise: null,
        remember: { x: 0, model: 1, negative: 0, history: [] },
      };
      if (call === 1) {
        // Starts over where call 0 started, with the mean of both outputs. Call 0 made x = A·start + B·H[0], so
        // start = (x − B·H[0])/A; the start itself need not be kept.
        const done = transfer(points[0], at(points[0].timestep - stride));
        const begun = at(timestep + stride);
        if (!Number.isFinite(begun.alpha)) {
          throw uneven();
        }
        const again = transfer(begun, point);
        const x = again.x / done.x;
        return {
          ...common,
          next: { x, model: again.model / 2, negative: 0, history: [again.model / 2 - x * done.model] },
          shift: false,
        };
      }
      const known = call === 0 ? 0 : Math.min(call - 1, 3);
      const [now, ...before] = ADAMS_BASHFORTH[known];
      const { x, model } = transfer(point, at(timestep - stride));
      return {
        ...common,
        next: { x, model: model * now, negative: 0, history: before.map((weight) => model * weight) },
        shift: true,
      };
    });
    return { steps, historyLength: 3 };
  },
};

function uneven(): StudioError {
  return new StudioError(
    'invalid_operation',
    'The sampler plms needs evenly spaced timesteps; choose the schedule leading, trailing or linspace, or another sampler.',
  );
}

/** Equation 9: x at `to` from x at `from` and the (combined) network output. */
function transfer(from: Point, to: Level): Pair {
  const a = from.alpha ** 2;
  const b = to.alpha ** 2;
  const x = Math.sqrt(b / a);
  const weight = -(b - a) / (a * Math.sqrt(1 - b) + Math.sqrt(a * (1 - a) * b));
  // The noise is (x − α · x0)/σ.
  const noise = {
    x: (1 - from.alpha * from.denoised.x) / from.sigma,
    model: (-from.alpha * from.denoised.model) / from.sigma,
  };
  return { x: x + weight * noise.x, model: weight * noise.model };
}
