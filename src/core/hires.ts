/**
 * The second pass at a larger size, known as hires fix: the picture is painted small, enlarged, and painted again from there, so that a large
 * picture keeps the composition of the size that the checkpoint was trained at.
 */
import * as v from 'valibot';
import { REF } from './further_checkpoints.ts';
import { LATENT_UPSCALERS } from './latent_resize.ts';
import { integer, real, strength } from './parameters.ts';

/**
 * How the picture is enlarged where no upscaler does: its latents are interpolated, or its pixels are scaled (Lanczos) and encoded again.
 */
export const HIRES_UPSCALERS = [...LATENT_UPSCALERS, 'lanczos'] as const;
/** One of these, or the ref of an upscaler, whose result is scaled to the size (Lanczos). */
export type HiresUpscaler = string;

/** As in AUTOMATIC1111. */
export const USUAL_HIRES = { upscaler: 'latent', strength: 0.7 } as const;

export const hiresScale = () => real('hires_scale', 1, 4);
export const hiresSteps = () => integer('hires_steps', 1, 150);
export const hiresStrength = () => strength('hires_denoising_strength');
const UPSCALER_PROBLEM = `hires_upscaler must be one of ${HIRES_UPSCALERS.join(', ')}, or the ref of an upscaler, such as builtin:realesr-animevideov3.`;
export const hiresUpscaler = () =>
  v.union([v.picklist(HIRES_UPSCALERS), v.pipe(v.string(), v.regex(REF, UPSCALER_PROBLEM))], UPSCALER_PROBLEM);

/** `hires_scale` above 1 asks for the second pass. */
export const hiresEntries = () => ({
  hires_scale: v.optional(hiresScale()),
  /** As many as in the first pass by default. */
  hires_steps: v.optional(hiresSteps()),
  hires_denoising_strength: v.optional(hiresStrength()),
  hires_upscaler: v.optional(hiresUpscaler()),
});

export interface HiresRequest {
  hires_scale?: number | undefined;
  hires_steps?: number | undefined;
  hires_denoising_strength?: number | undefined;
  hires_upscaler?: HiresUpscaler | undefined;
}

/** Whether a second pass starts from words, and no settings are given for one that does not happen. */
export function isWholeHires(input: HiresRequest & { operation: string }): boolean {
  return (input.hires_scale ?? 1) > 1
    ? input.operation === 'image_generation'
    : !Object.keys(input).some((name) => /^hires_(?!sc)/.test(name));
}

export const NO_HIRES = 'A second pass (hires) needs a hires_scale above 1 and no picture.';

/** A side after the second pass, in pixels. */
export function hiresSide(side: number, scale = 1, multiple = 8): number {
  return Math.floor((side * scale) / multiple) * multiple;
}
