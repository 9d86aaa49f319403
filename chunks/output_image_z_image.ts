/**
 * A picture from words with Z-Image or Z-Image-Turbo: from nothing, from another picture, or in the white part of a mask. In: prompt and
 * settings. Out: `batch_size` pictures. Cost: one run of the transformer per step and picture, two with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import {
  background,
  batchSize,
  guidanceScale,
  image,
  overlayInpaint,
  prompt,
  seed,
  size,
  steps,
  strength,
  tileSize,
  weights,
} from '../src/core/parameters.ts';

export const meta = {
  id: 'output_image_z_image',
  media: 'image',
  operations: ['image_generation', 'image_transform', 'image_inpaint'],
  needs: { gpu: true, checkpoint: ['ZImagePipeline', 'ZImageImg2ImgPipeline', 'ZImageInpaintPipeline'] },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

const MULTIPLE = 16;
const id = (name: string) => v.string(`${name} must be the id of a ${name}.`);

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Counts with guidance above 0. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    width: v.optional(size('width', MULTIPLE, 4096, MULTIPLE)),
    height: v.optional(size('height', MULTIPLE, 4096, MULTIPLE)),
    steps: v.optional(steps(1, 150), 8),
    guidance_scale: v.optional(guidanceScale(), 0),
    sampler: v.optional(id('sampler')),
    schedule: v.optional(id('schedule')),
    seed: v.optional(seed(), () => String(crypto.getRandomValues(new Uint32Array(1))[0])),
    batch_size: v.optional(batchSize(), 1),
    strength: v.optional(strength()),
    image: v.optional(image('image')),
    mask_image: v.optional(image('mask_image')),
    overlay_inpaint: v.optional(overlayInpaint()),
    background: v.optional(background()),
    weights: v.optional(weights(), 'auto'),
    tile_size: v.optional(tileSize()),
  }),
  v.check(
    ({ operation, image }) => operation === 'image_generation' || image !== undefined,
    'image is missing: image_transform and image_inpaint start from a picture.',
  ),
  v.check(
    ({ operation, image }) => operation !== 'image_generation' || image === undefined,
    'image is given, but image_generation starts from nothing; use image_transform.',
  ),
  v.check(
    ({ operation, mask_image }) => (operation === 'image_inpaint') === (mask_image !== undefined),
    'mask_image is needed by image_inpaint and only by it: white is changed, black is kept.',
  ),
  v.check(
    ({ operation, overlay_inpaint }) => operation === 'image_inpaint' || overlay_inpaint === undefined,
    'overlay_inpaint counts only for image_inpaint; leave it out.',
  ),
  v.check(
    ({ image, background }) => image !== undefined || background === undefined,
    'background counts only where an image is given; leave it out.',
  ),
);

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  return { images: await paint(input, context) };
}
