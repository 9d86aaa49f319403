/**
 * DPM-Solver++(2M) for the stochastic differential equation, η = 1: equation 17 and appendix B.6 of https://arxiv.org/abs/2211.01095. The
 * noise scales with twice the step in λ.
 */
import { PICTURE, stepFrom, type Course, type Sampler, type SolverOptions, type SolverPlan } from './sampler.ts';
import { stochastic, withFiniteLambda } from './snr.ts';

export const sampler: Sampler = {
  id: 'dpmpp_2m_sde',
  ofDiffusers: true,
  addsNoise: true,
  drawsPath: true,
  readsFlow: true,
  plan: (course) => secondOrderSde(course, course.options.solverType),
};

export function secondOrderSde(
  course: Omit<Course, 'skipped' | 'atTimestep'>,
  solverType: SolverOptions['solverType'],
): SolverPlan {
  const { targets, options } = course;
  const points = withFiniteLambda(course);
  return {
    steps: points.map((from, i) => {
      const to = targets[i];
      if (to.sigma === 0) {
        return stepFrom(from, { x: 0, denoised: to.alpha, remember: PICTURE });
      }
      const h = to.lambda - from.lambda;
      const { x, denoised: gain, noise } = stochastic(from, to);
      const isLast = i === points.length - 1;
      const isFirstOrder = options.order === 1 || i === 0 || (isLast && options.firstOrderEnd);
      let slope = 0;
      if (!isFirstOrder) {
        const ratio = (from.lambda - points[i - 1].lambda) / h;
        slope = (solverType === 'heun' ? to.alpha * (Math.expm1(-2 * h) / (2 * h) + 1) : 0.5 * gain) / ratio;
      }
      return stepFrom(from, {
        x,
        denoised: gain + slope,
        history: isFirstOrder ? [] : [-slope],
        noise,
        remember: PICTURE,
      });
    }),
    historyLength: 1,
  };
}
