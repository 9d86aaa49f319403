/** The network predicts the noise: equation 14 of https://arxiv.org/abs/2006.11239. */
import { variancePreserving, type Prediction } from './prediction.ts';

export const prediction: Prediction = {
  id: 'epsilon',
  levelAt: variancePreserving,
  denoised: ({ alpha, sigma }) => ({ x: 1 / alpha, model: -sigma / alpha }),
};
