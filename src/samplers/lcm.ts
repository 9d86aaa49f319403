/** Latent consistency models: the predicted picture, then fresh noise up to the next level. https://arxiv.org/abs/2310.04378, algorithm 3. */
import { stepFrom, type Sampler } from './sampler.ts';

export const sampler: Sampler = {
  id: 'lcm',
  addsNoise: true,
  ofDiffusers: true,
  readsFlow: true,
  plan: ({ points, targets, options: { timestepScaling } }) => ({
    steps: points.map((from, i) => {
      const to = targets[i];
      const { skip, out } = boundary(timestepScaling === undefined ? Infinity : timestepScaling * from.timestep);
      return stepFrom(from, {
        x: to.alpha * skip,
        denoised: to.alpha * out,
        noise: { scale: to.sigma, from: from.noise, to: to.noise },
      });
    }),
    historyLength: 0,
  }),
};

/** Standard deviation of the pictures that the network is thought to have been distilled on. */
const SIGMA_DATA = 0.5;

/** The weights of x and of the predicted picture which make the model give back a picture without noise: appendix D of the paper. */
function boundary(time: number): { skip: number; out: number } {
  const ratio = SIGMA_DATA / time;
  return { skip: ratio ** 2 / (1 + ratio ** 2), out: 1 / Math.sqrt(1 + ratio ** 2) };
}
