/** Third-order extended reverse-time SDE solver: https://arxiv.org/abs/2309.06169, with the noise scaling of its variance-preserving case. */
import { PICTURE, stepFrom, type Sampler } from './sampler.ts';
import { withFiniteLambda } from './snr.ts';

/** Number of points that its integrals are summed over. */
const POINTS = 200;

export const sampler: Sampler = {
  id: 'er_sde',
  addsNoise: true,
  readsFlow: true,
  plan: (course) => {
    const points = withFiniteLambda(course);
    const levels = points.map(({ lambda }) => Math.exp(-lambda));
    return {
      steps: points.map((from, i) => {
        const to = course.targets[i];
        if (to.sigma === 0) {
          return stepFrom(from, { x: 0, denoised: to.alpha, remember: PICTURE });
        }
        const [now, next] = [levels[i], Math.exp(-to.lambda)];
        const ratio = scaling(next) / scaling(now);
        // Weights of the last predicted pictures, the current one first.
        const weights = [to.alpha * (1 - ratio), 0, 0];
        const length = next - now;
        if (i >= 1) {
          const gain = to.alpha * (length + summed(next, -length, () => 1) * scaling(next));
          const first = [1, -1, 0].map((weight) => weight / (now - levels[i - 1]));
          first.forEach((weight, k) => (weights[k] += gain * weight));
          if (i >= 2) {
            const curve = to.alpha * (length ** 2 / 2 + summed(next, -length, (level) => level - now) * scaling(next));
            const earlier = [0, 1, -1].map((weight) => weight / (levels[i - 1] - levels[i - 2]));
            first.forEach((weight, k) => (weights[k] += (curve * (weight - earlier[k])) / ((now - levels[i - 2]) / 2)));
          }
        }
        const variance = next ** 2 - (now * ratio) ** 2;
        return stepFrom(from, {
          x: (to.alpha / from.alpha) * ratio,
          denoised: weights[0],
          history: weights.slice(1, i + 1),
          noise: { scale: to.alpha * Math.sqrt(Math.max(variance, 0)), from: from.noise, to: to.noise },
          remember: PICTURE,
        });
      }),
      historyLength: 2,
    };
  },
};

function scaling(level: number): number {
  return level * (Math.exp(level ** 0.3) + 10);
}

/** The integral of numerator/scaling over `length` from `start`, as a sum. */
function summed(start: number, length: number, numerator: (level: number) => number): number {
  const step = length / POINTS;
  let sum = 0;
  for (let k = 0; k < POINTS; k++) {
    const level = start + k * step;
    sum += numerator(level) / scaling(level);
  }
  return sum * step;
}
