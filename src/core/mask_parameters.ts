/** The parameters that say how a mask is used, of chunks that inpaint. `mask_shape.ts` and `only_masked.ts` do it. */
import * as v from 'valibot';
import { integer, real } from './parameters.ts';

/**
 * What the white part of a mask holds before it is painted: colours of what lies around it, what the picture shows there, the seed's noise,
 * or latents of zero. It counts below a strength of 1, at which everything begins as noise. Named as by AUTOMATIC1111.
 */
export const MASK_CONTENTS = ['original', 'fill', 'latent_noise', 'latent_nothing'] as const;
export type MaskContent = (typeof MASK_CONTENTS)[number];

/** Pixels of the picture by which the white part grows, or, below 0, shrinks. */
export const maskGrow = () => integer('mask_grow', -128, 128);

/** Radius of the Gaussian blur of its edge, in pixels of the picture. */
export const maskFeather = () => real('mask_feather', 0, 128);

/**
 * Paints only the masked part, at the size asked for, and puts it back into the picture, which keeps its own size: how many pixels of
 * the picture around it are seen, too. Absent = the picture is painted as a whole.
 */
export const maskPadding = () => integer('mask_padding', 0, 1024);

export const maskContent = () => v.picklist(MASK_CONTENTS, `mask_content must be one of ${MASK_CONTENTS.join(', ')}.`);

/** Whether grey changes less than white (differential diffusion), so that there is no seam. */
export const softInpainting = () => v.boolean('soft_inpainting must be true or false.');

export const shapedMaskEntries = () => ({
  mask_grow: v.optional(maskGrow()),
  mask_feather: v.optional(maskFeather()),
  mask_padding: v.optional(maskPadding()),
  mask_content: v.optional(maskContent()),
  soft_inpainting: v.optional(softInpainting()),
});

export interface MaskRequest {
  mask_grow?: number | undefined;
  mask_feather?: number | undefined;
  mask_padding?: number | undefined;
  mask_content?: MaskContent | undefined;
  soft_inpainting?: boolean | undefined;
}

/** What is wrong with them for this kind of operation; null where nothing is. */
export function maskProblem({
  operation,
  overlay_inpaint: overlays,
  ...request
}: MaskRequest & { operation: string; overlay_inpaint?: boolean | undefined }): string | null {
  const name = Object.keys(request).find((one) => /^(mask_(?!image)|soft_inpainting)/.test(one));
  if (operation !== 'image_inpaint') {
    return name === undefined ? null : `${name} counts only for image_inpaint; leave it out.`;
  }
  return request.mask_padding !== undefined && overlays === false
    ? 'mask_padding puts what is painted back into the picture, so overlay_inpaint cannot be false; leave one of them out.'
    : null;
}
