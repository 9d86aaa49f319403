/**
 * Combines the predictions for the prompt and the negative prompt into one. Every method here is a weighted sum of the two whose weights may
 * depend on statistics of both; the step kernel applies the plain one, `cfg.ts`, itself.
 */

/** Sums over all elements of one picture's predictions: c for the prompt, u for the negative prompt. */
export interface Moments {
  count: number;
  c: number;
  u: number;
  cc: number;
  cu: number;
  uu: number;
}

/** Weights of the two: m = c · cond + u · uncond. */
export interface GuidanceWeights {
  c: number;
  u: number;
}

export interface GuidanceSettings {
  /** Of projected guidance: how much of the part along the prompt's own prediction is kept, 0 … 1. */
  apg_eta: number;
  /** Of projected guidance: the greatest length of what guidance adds, of a picture's whole prediction; 0 = any. */
  apg_norm_threshold: number;
}

export interface Guidance {
  /** Equals the file's name. */
  id: string;
  /**
   * @param moments of one picture
   * @param scale the guidance scale
   */
  weights(moments: Moments, scale: number, settings: GuidanceSettings): GuidanceWeights;
}
