/** The network predicts the picture itself. */
import { variancePreserving, type Prediction } from './prediction.ts';

export const prediction: Prediction = {
  id: 'sample',
  levelAt: variancePreserving,
  denoised: () => ({ x: 0, model: 1 }),
};
