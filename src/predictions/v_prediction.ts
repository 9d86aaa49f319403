/** The network predicts v = alpha · noise − sigma · x0: §2.4 of https://arxiv.org/abs/2210.02303. */
import { variancePreserving, type Prediction } from './prediction.ts';

export const prediction: Prediction = {
  id: 'v_prediction',
  levelAt: variancePreserving,
  denoised: ({ alpha, sigma }) => ({ x: alpha, model: -sigma }),
};
