/**
 * DPM-Solver++(2M) for the stochastic differential equation, η = 1: equation 17 and appendix B.6 of https://arxiv.org/abs/2211.01095. The
 * noise enters with twice the step in λ.
 */
import { stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'dpmpp_2m_sde',
  addsNoise: true,
  plan: ({ points, targets, options }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      if (to.sigma === 0) {
        return stepFrom(from, { x: 0, denoised: to.alpha, remember: { x: 0, denoised: 1 } });
      }
      const h = to.lambda - from.lambda;
      const gain = to.alpha * -Math.expm1(-2 * h);
      const isLast = i === points.length - 1;
      const isFirstOrder = options.order === 1 || i === 0 || (isLast && options.firstOrderEnd);
      let slope = 0;
      if (!isFirstOrder) {
        const ratio = (from.lambda - points[i - 1].lambda) / h;
        slope = (options.solverType === 'heun' ? to.alpha * (Math.expm1(-2 * h) / (2 * h) + 1) : 0.5 * gain) / ratio;
      }
      return stepFrom(from, {
        x: (to.sigma / from.sigma) * Math.exp(-h),
        denoised: gain + slope,
        history: isFirstOrder ? [] : [-slope],
        noise: {
          scale: to.sigma * Math.sqrt(-Math.expm1(-2 * h)),
          from: from.noise,
          to: to.noise,
        },
        remember: { x: 0, denoised: 1 },
      });
    }),
    historyLength: 1,
  }),
};
