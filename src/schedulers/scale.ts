/** How much noise a picture from nothing starts from. */
import type { Level } from '../predictions/prediction.ts';

/** diffusers leaves out the picture's own variance where the first level counts as pure noise. */
export function initNoiseAtFullScale({ sigma }: Level, spacing: string): number {
  return spacing === 'linspace' || spacing === 'trailing' ? sigma : Math.sqrt(sigma * sigma + 1);
}
