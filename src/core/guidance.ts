/** How the predictions for the prompt and the negative prompt become one; the formulas are `src/guidance`. */
import * as v from 'valibot';
import type { FieldMetadata } from './field.ts';
import { real } from './parameters.ts';

/** Files of `src/guidance`. */
export const GUIDANCE_METHODS = ['cfg', 'apg', 'cfg_zero_star'] as const;
/** With those of flow transformers: ComfyUI's node CFGNorm, and what Qwen-Image's own pipelines do. */
export const FLOW_GUIDANCE_METHODS = [...GUIDANCE_METHODS, 'comfyui_cfg_norm'] as const;
export const QWEN_GUIDANCE_METHODS = [...FLOW_GUIDANCE_METHODS, 'cfg_norm'] as const;
export type GuidanceMethod = (typeof QWEN_GUIDANCE_METHODS)[number];

export interface GuidanceRequest {
  /** Undefined = plain classifier-free guidance, but for Qwen-Image, whose own brings every token back to the length of the prompt's prediction. */
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

export const guidanceMethod = <Method extends GuidanceMethod>(methods: readonly Method[]) =>
  v.picklist(methods, `guidance_method must be one of ${methods.join(', ')}.`);
export const apgEta = () => real('apg_eta', 0, 1);
export const apgNormThreshold = () => real('apg_norm_threshold', 0, 1000);

const ofApg = { with: 'guidance_method', withValue: 'apg' } satisfies FieldMetadata;

/** Without rescaling. @param methods that the family knows */
export const guidanceEntries = <Method extends GuidanceMethod>(methods: readonly Method[]) => ({
  guidance_method: v.optional(
    v.pipe(guidanceMethod(methods), v.metadata({ choices: METHOD_NAMES } satisfies FieldMetadata)),
  ),
  apg_eta: v.optional(v.pipe(apgEta(), v.metadata(ofApg))),
  apg_norm_threshold: v.optional(v.pipe(apgNormThreshold(), v.metadata(ofApg))),
});

/** Whether what is said of projected guidance has it to be said of. */
export function isWholeGuidance({
  guidance_method: method,
  apg_eta: eta,
  apg_norm_threshold: longest,
}: GuidanceRequest): boolean {
  return method === 'apg' || (eta === undefined && longest === undefined);
}

const METHOD_NAMES = {
  cfg: { en: 'Classifier-free (CFG)', de: 'Classifier-free (CFG)' },
  apg: { en: 'Projected (APG)', de: 'Projiziert (APG)' },
  cfg_zero_star: { en: 'CFG-Zero*', de: 'CFG-Zero*' },
  comfyui_cfg_norm: { en: 'CFGNorm, as in ComfyUI', de: 'CFGNorm wie in ComfyUI' },
  cfg_norm: { en: 'CFG, normed by token', de: 'CFG, je Token normiert' },
};

export const NO_APG =
  'apg_eta and apg_norm_threshold count only with the guidance_method apg; leave them out, or choose it.';
