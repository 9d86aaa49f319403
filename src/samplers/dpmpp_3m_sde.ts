/**
 * DPM-Solver++(3M) for the stochastic differential equation, η = 1, as in k-diffusion: the last three predicted pictures give the first two
 * derivatives in λ.
 */
import { PICTURE, stepFrom, type Sampler } from './sampler.ts';
import { stochastic, withFiniteLambda } from './snr.ts';

export const sampler: Sampler = {
  id: 'dpmpp_3m_sde',
  addsNoise: true,
  drawsPath: true,
  readsFlow: true,
  plan: (course) => {
    const points = withFiniteLambda(course);
    return {
      steps: points.map((from, i) => {
        const to = course.targets[i];
        if (to.sigma === 0) {
          return stepFrom(from, { x: 0, denoised: to.alpha, remember: PICTURE });
        }
        const h = to.lambda - from.lambda;
        const { x, denoised, noise } = stochastic(from, to);
        const phi2 = Math.expm1(-2 * h) / (2 * h) + 1;
        const phi3 = phi2 / (2 * h) - 0.5;
        const before = (k: number) => (points[i - k + 1].lambda - points[i - k].lambda) / h;
        // Weights of the last predicted pictures, the current one first.
        const added = [0, 0, 0];
        if (i >= 2) {
          const [r0, r1] = [before(1), before(2)];
          const latest = [1 / r0, -1 / r0, 0];
          const earlier = [0, 1 / r1, -1 / r1];
          for (let k = 0; k < 3; k++) {
            const change = (latest[k] - earlier[k]) / (r0 + r1);
            added[k] = to.alpha * (phi2 * (latest[k] + change * r0) - phi3 * change);
          }
        } else if (i === 1) {
          added[0] = (to.alpha * phi2) / before(1);
          added[1] = -added[0];
        }
        return stepFrom(from, {
          x,
          denoised: denoised + added[0],
          history: added.slice(1, i + 1),
          noise,
          remember: PICTURE,
        });
      }),
      historyLength: 2,
    };
  },
};
