/** How the predictions for the prompt and the negative prompt become one; the formulas are `src/guidance`. */
import * as v from 'valibot';
import { guidanceRescale, real } from './parameters.ts';

/** Files of `src/guidance`. */
export const GUIDANCE_METHODS = ['cfg', 'apg', 'cfg_zero_star'] as const;
export type GuidanceMethod = (typeof GUIDANCE_METHODS)[number];

export interface GuidanceRequest {
  /** Undefined = plain classifier-free guidance. */
  guidance_method?: GuidanceMethod | undefined;
  /** How far to rescale guidance to the standard deviation of the conditional prediction, 0 … 1; undefined = not at all. */
  guidance_rescale?: number | undefined;
  /** Of projected guidance: how much of the part along the prompt's own prediction is kept, 0 … 1. */
  apg_eta?: number | undefined;
  /** Of projected guidance: the greatest length of what guidance adds; 0 = any. */
  apg_norm_threshold?: number | undefined;
}

/** Of projected guidance what its authors use with Stable Diffusion XL. */
export const DEFAULT_GUIDANCE = { guidance_method: 'cfg', apg_eta: 0, apg_norm_threshold: 15 } as const;

export const guidanceMethod = () =>
  v.picklist(GUIDANCE_METHODS, `guidance_method must be one of ${GUIDANCE_METHODS.join(', ')}.`);
export const apgEta = () => real('apg_eta', 0, 1);
export const apgNormThreshold = () => real('apg_norm_threshold', 0, 1000);

export const guidanceEntries = () => ({
  guidance_method: v.optional(guidanceMethod()),
  guidance_rescale: v.optional(guidanceRescale()),
  apg_eta: v.optional(apgEta()),
  apg_norm_threshold: v.optional(apgNormThreshold()),
});

/** Whether what is said of projected guidance has it to be said of. */
export function isWholeGuidance({
  guidance_method: method,
  apg_eta: eta,
  apg_norm_threshold: longest,
}: GuidanceRequest): boolean {
  return method === 'apg' || (eta === undefined && longest === undefined);
}

export const NO_APG =
  'apg_eta and apg_norm_threshold count only with the guidance_method apg; leave them out, or choose it.';
