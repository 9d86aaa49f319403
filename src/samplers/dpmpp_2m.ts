/** DPM-Solver++(2M): https://arxiv.org/abs/2211.01095, algorithm 2. λ = ln(α/σ). */
import { PICTURE, stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'dpmpp_2m',
  ofDiffusers: true,
  plan: ({ points, targets, options }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      const h = to.lambda - from.lambda;
      const gain = to.alpha * -Math.expm1(-h);
      const isLast = i === points.length - 1;
      const isFirstOrder = options.order === 1 || i === 0 || (isLast && options.firstOrderEnd);
      let slope = 0;
      if (!isFirstOrder) {
        const ratio = (from.lambda - points[i - 1].lambda) / h;
        slope = (options.solverType === 'heun' ? to.alpha * (Math.expm1(-h) / h + 1) : 0.5 * gain) / ratio;
      }
      // x' = (σ'/σ)·x + gain·x0 + slope·(x0 − x0 of the step before)
      return stepFrom(from, {
        x: to.sigma / from.sigma,
        denoised: gain + slope,
        history: isFirstOrder ? [] : [-slope],
        remember: PICTURE,
      });
    }),
    historyLength: 1,
  }),
};
