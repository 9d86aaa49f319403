/** The common parameters of chunks that call `paint`, and the rules between them. */
import * as v from 'valibot';
import type { FieldMetadata } from './field.ts';
import type { NoiseRequest } from './noise.ts';
import { maskProblem, shapedMaskEntries, type MaskRequest } from './mask_parameters.ts';
import { STRAY_SHIFT, isWholeShift, modelSamplingEntries, type ModelSamplingRequest } from './model_sampling.ts';
import { outpaintEntries, outpaintProblem, type OutpaintRequest } from './outpainting_parameters.ts';
import {
  HALF_A_VARIATION,
  UNKNOWN_DELTA,
  background,
  batchSize,
  drawnSeed,
  flowShift,
  hasMask,
  image,
  isKnownDelta,
  isWholeVariation,
  loras,
  noiseEntries,
  overlayInpaint,
  phased,
  size,
  steps,
  strength,
  tileSize,
  weights,
  type ImageSource,
} from './parameters.ts';

const id = (name: string) =>
  v.pipe(v.string(`${name} must be the id of a ${name}.`), v.metadata({ control: 'sampling' } satisfies FieldMetadata));

export const samplingEntries = () => ({
  sampler: v.optional(id('sampler')),
  schedule: v.optional(id('schedule')),
  seed: drawnSeed(),
});

/**
 * Everything but words and guidance of checkpoints whose noise levels are a flow's: size, sampling, a picture to start from, and how to run it.
 * @param multiple width and height must be multiples of this, in pixels
 * @param usualSteps the default
 */
export const paintingEntries = ({ multiple, usualSteps }: { multiple: number; usualSteps: number }) => ({
  width: v.optional(size('width', multiple, 4096, multiple)),
  height: v.optional(size('height', multiple, 4096, multiple)),
  steps: v.optional(steps(1, 150), usualSteps),
  ...samplingEntries(),
  shift: v.optional(flowShift()),
  ...modelSamplingEntries(),
  ...noiseEntries(),
  batch_size: v.optional(batchSize(), 1),
  strength: v.optional(strength()),
  image: v.optional(image('image')),
  background: v.optional(background()),
  loras: v.optional(loras()),
  weights: v.optional(weights(), 'auto'),
  tile_size: v.optional(tileSize()),
  phased: v.optional(phased()),
});

/** For chunks that can also inpaint and outpaint. */
export const maskEntries = () => ({
  mask_image: v.optional(image('mask_image')),
  ...shapedMaskEntries(),
  ...outpaintEntries(),
  overlay_inpaint: v.optional(overlayInpaint()),
});

interface Start extends Partial<NoiseRequest>, OutpaintRequest, MaskRequest, ModelSamplingRequest {
  operation: string;
  image?: ImageSource | undefined;
  mask_image?: ImageSource | undefined;
  overlay_inpaint?: boolean | undefined;
  background?: string | undefined;
}

/** Whether the given pictures are the ones the operation takes, and what else counts together is together. For `v.check`, with {@link startProblem} as its message. */
export const hasItsStart = (input: Start): boolean => problemOf(input) === null;

export const startProblem = ({ input }: { input: Start }): string => problemOf(input) ?? '';

function problemOf({ operation, image, mask_image, overlay_inpaint, background, ...rest }: Start): string | null {
  if (operation !== 'image_generation' && image === undefined) {
    return 'image is missing: image_transform, image_inpaint and image_outpaint start from a picture.';
  }
  if (operation === 'image_generation' && image !== undefined) {
    return 'image is given, but image_generation starts from nothing; use image_transform.';
  }
  if ((operation === 'image_inpaint') !== (mask_image !== undefined)) {
    return 'mask_image is needed by image_inpaint and only by it: white is changed, black is kept.';
  }
  if (!hasMask(operation) && overlay_inpaint !== undefined) {
    return 'overlay_inpaint counts only for image_inpaint and image_outpaint; leave it out.';
  }
  const outpainting = outpaintProblem({ operation, ...rest }) ?? maskProblem({ operation, overlay_inpaint, ...rest });
  if (outpainting !== null) {
    return outpainting;
  }
  if (image === undefined && background !== undefined) {
    return 'background counts only where an image is given; leave it out.';
  }
  if (!isWholeShift(rest)) {
    return STRAY_SHIFT;
  }
  if (!isWholeVariation(rest)) {
    return HALF_A_VARIATION;
  }
  if (!isKnownDelta(rest)) {
    return UNKNOWN_DELTA;
  }
  return null;
}
