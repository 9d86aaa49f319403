/** DPM-Solver++(2M) for the stochastic differential equation with Heun's corrector: as `dpmpp_2m_sde`, appendix B.6. */
import { secondOrderSde } from './dpmpp_2m_sde.ts';
import type { Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'dpmpp_2m_sde_heun',
  addsNoise: true,
  drawsPath: true,
  readsFlow: true,
  plan: (course) => secondOrderSde(course, 'heun'),
};
