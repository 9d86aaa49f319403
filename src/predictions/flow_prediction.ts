/**
 * The network predicts the velocity, noise − x0, along the straight line x = (1 − σ) · x0 + σ · noise: rectified flow,
 * https://arxiv.org/abs/2209.03003. A schedule's noise level is σ itself, from 0 to 1.
 */
import type { Prediction } from './prediction.ts';

export const prediction: Prediction = {
  id: 'flow_prediction',
  levelAt: (sigma) => ({ alpha: 1 - sigma, sigma }),
  denoised: ({ sigma }) => ({ x: 1, model: -sigma }),
};
