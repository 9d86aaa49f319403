/** What a network's output means: the way from it, and from the noisy latents, to the predicted picture. */

/** Weights of the latents `x` and of the network output `m`. */
export interface Pair {
  x: number;
  model: number;
}

/** How much picture and how much noise is in the latents: x = alpha · x0 + sigma · noise. */
export interface Level {
  alpha: number;
  sigma: number;
}

export const CLEAN: Level = { alpha: 1, sigma: 0 };

export interface Prediction {
  /** Equals the file's name: diffusers' `prediction_type`. */
  id: 'epsilon' | 'v_prediction' | 'sample' | 'flow_prediction';
  /** The level at a noise level of a schedule, in the scale in which the network is given latents. */
  levelAt(noise: number): Level;
  /** x0 from latents of that scale and the network's output. */
  denoised(level: Level): Pair;
}

/** Variance preserving: alpha² + sigma² = 1, and a schedule's noise level is sigma / alpha. */
export function variancePreserving(ratio: number): Level {
  const alpha = 1 / Math.sqrt(ratio * ratio + 1);
  return { alpha, sigma: ratio * alpha };
}
