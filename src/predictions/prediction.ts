/** What a network predicts: how to get the predicted picture from its output and the noisy latents. */

/** Weights of the latents `x` and of the network output `m`. */
export interface Pair {
  x: number;
  model: number;
}

/** How much picture and how much noise the latents hold: x = alpha · x0 + sigma · noise. */
export interface Level {
  alpha: number;
  sigma: number;
}

export const CLEAN: Level = { alpha: 1, sigma: 0 };

export interface Prediction {
  /** Equals the file's name: diffusers' `prediction_type`. */
  id: 'epsilon' | 'v_prediction' | 'sample' | 'flow_prediction';
  /** The level for a schedule's noise level, at the scale of the network's input. */
  levelAt(noise: number): Level;
  /** x0 from latents at that scale and the network's output. */
  denoised(level: Level): Pair;
}

/** Variance preserving: alpha² + sigma² = 1, and a schedule's noise level is sigma / alpha. */
export function variancePreserving(ratio: number): Level {
  const alpha = 1 / Math.sqrt(ratio * ratio + 1);
  return { alpha, sigma: ratio * alpha };
}
