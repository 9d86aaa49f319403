/** What is chosen of a picture beside what every form has: kept as typed, by the names of the parameters. */
import * as v from 'valibot';
import * as guidance from '../../core/guidance.ts';
import * as hires from '../../core/hires.ts';
import * as mask from '../../core/mask_parameters.ts';
import * as shifts from '../../core/model_sampling.ts';
import { OUTPAINT_CONTENTS, outpaintFeather } from '../../core/outpainting_parameters.ts';
import * as parameter from '../../core/parameters.ts';

/** Parameters that are kept as typed, and what an operation wants of them. */
export const CHOSEN = {
  prompt_syntax: { to: String, schema: parameter.promptSyntax },
  clip_skip: { to: Number, schema: parameter.clipSkip },
  guidance_rescale: { to: Number, schema: parameter.guidanceRescale },
  guidance_method: { to: String, schema: () => guidance.guidanceMethod(guidance.FLOW_GUIDANCE_METHODS) },
  apg_eta: { to: Number, schema: guidance.apgEta },
  apg_norm_threshold: { to: Number, schema: guidance.apgNormThreshold },
  follows: { to: String, schema: parameter.follows },
  hires_scale: { to: Number, schema: hires.hiresScale },
  hires_steps: { to: Number, schema: hires.hiresSteps },
  hires_denoising_strength: { to: Number, schema: hires.hiresStrength },
  hires_upscaler: { to: String, schema: hires.hiresUpscaler },
  shift: { to: Number, schema: parameter.flowShift },
  model_sampling: { to: String, schema: shifts.modelSampling },
  base_shift: { to: Number, schema: shifts.baseShift },
  max_shift: { to: Number, schema: shifts.maxShift },
  shift_width: { to: Number, schema: () => shifts.shiftSide('shift_width') },
  shift_height: { to: Number, schema: () => shifts.shiftSide('shift_height') },
  noise: { to: String, schema: parameter.noise },
  variation_seed: { to: String, schema: () => parameter.seed('variation_seed') },
  variation_strength: { to: Number, schema: parameter.variationStrength },
  eta_noise_seed_delta: { to: Number, schema: parameter.etaNoiseSeedDelta },
  guidance_mode: { to: String, schema: parameter.guidanceMode },
  tile_size: { to: Number, schema: parameter.tileSize },
  weights: { to: String, schema: parameter.weights },
  mask_grow: { to: Number, schema: mask.maskGrow },
  mask_feather: { to: Number, schema: mask.maskFeather },
  mask_padding: { to: Number, schema: mask.maskPadding },
  mask_content: { to: String, schema: mask.maskContent },
  soft_inpainting: { to: (text) => text === 'true', schema: mask.softInpainting },
  outpaint_left: { to: Number, schema: margin('outpaint_left') },
  outpaint_top: { to: Number, schema: margin('outpaint_top') },
  outpaint_right: { to: Number, schema: margin('outpaint_right') },
  outpaint_bottom: { to: Number, schema: margin('outpaint_bottom') },
  outpaint_feather: { to: Number, schema: outpaintFeather },
  outpaint_content: { to: String, schema: () => v.picklist(OUTPAINT_CONTENTS) },
} satisfies Record<string, { to: (text: string) => unknown; schema: (multiple: number) => v.GenericSchema }>;
export type ChosenName = keyof typeof CHOSEN;

export const CHOSEN_NAMES = Object.keys(CHOSEN) as ChosenName[];

/** Those that checkpoints whose noise is a flow take, too. */
export const OF_FLOWS =
  /^(guidance_method|apg|shift|model_sampling|base_shift|max_shift|noise|variation|eta|tile_size|weights|mask|soft|outpaint)/;

/** Those that are about the starting picture, or say how the prompt is read, whatever the checkpoint. */
export const OF_GIVEN = /^(prompt_syntax|outpaint_|mask_|soft_)/;

/** What can be said of a checkpoint's network by hand, as parameters. */
export const PREDICTIONS: Partial<Record<string, Record<string, unknown>>> = {
  noise: { prediction_type: 'epsilon', rescale_betas_zero_snr: false },
  velocity: { prediction_type: 'v_prediction', rescale_betas_zero_snr: false },
  velocity_zero_snr: { prediction_type: 'v_prediction', rescale_betas_zero_snr: true },
};

/** The id of what these parameters say; empty where they say nothing. */
export function predictionOf({ prediction_type, rescale_betas_zero_snr }: Record<string, unknown>): string {
  return prediction_type === 'v_prediction'
    ? rescale_betas_zero_snr === true
      ? 'velocity_zero_snr'
      : 'velocity'
    : prediction_type === 'epsilon'
      ? 'noise'
      : '';
}

function margin(name: string) {
  return (multiple: number) => parameter.size(name, 0, 2048, multiple);
}
