/** The parameters of outpainting, and what they say of the new frame. `outpainting.ts` makes it. */
import * as v from 'valibot';
import { integer } from './parameters.ts';

export const SIDES = ['left', 'top', 'right', 'bottom'] as const;

/**
 * What the new ground holds before it is painted: the edge's colours stretched outward, the background's colour, the seed's noise, or
 * latents of zero. It counts below a strength of 1, at which everything begins as noise. Named as by AUTOMATIC1111.
 */
export const OUTPAINT_CONTENTS = ['fill', 'original', 'latent_noise', 'latent_nothing'] as const;
export type OutpaintContent = (typeof OUTPAINT_CONTENTS)[number];

const margin = (side: (typeof SIDES)[number]) => integer(`outpaint_${side}`, 0, 2048);

/** Pixels to add at each side; the new frame's sides must be what the checkpoint takes. */
export const outpaintEntries = () => ({
  outpaint_left: v.optional(margin('left')),
  outpaint_top: v.optional(margin('top')),
  outpaint_right: v.optional(margin('right')),
  outpaint_bottom: v.optional(margin('bottom')),
  outpaint_feather: v.optional(outpaintFeather()),
  outpaint_content: v.optional(
    v.picklist(OUTPAINT_CONTENTS, `outpaint_content must be one of ${OUTPAINT_CONTENTS.join(', ')}.`),
  ),
});

/** Pixels inside the picture over which it passes into what is painted. */
export const outpaintFeather = () => integer('outpaint_feather', 0, 512);

export interface OutpaintRequest {
  outpaint_left?: number | undefined;
  outpaint_top?: number | undefined;
  outpaint_right?: number | undefined;
  outpaint_bottom?: number | undefined;
  outpaint_feather?: number | undefined;
  outpaint_content?: OutpaintContent | undefined;
}

/** What is wrong with them for this kind of operation; null where nothing is. */
export function outpaintProblem({ operation, ...request }: OutpaintRequest & { operation: string }): string | null {
  if (operation !== 'image_outpaint') {
    const name = Object.keys(request).find((one) => one.startsWith('outpaint_'));
    return name === undefined ? null : `${name} counts only for image_outpaint; leave it out.`;
  }
  return SIDES.some((side) => (request[`outpaint_${side}`] ?? 0) > 0)
    ? null
    : 'image_outpaint needs at least one of outpaint_left, outpaint_top, outpaint_right and outpaint_bottom above 0.';
}

/** By how much a frame is larger than its picture, in pixels. */
export function outpainted(parameters: Readonly<Record<string, unknown>>): { width: number; height: number } {
  const of = (side: (typeof SIDES)[number]) => {
    const value = parameters[`outpaint_${side}`];
    return typeof value === 'number' ? value : 0;
  };
  return { width: of('left') + of('right'), height: of('top') + of('bottom') };
}
