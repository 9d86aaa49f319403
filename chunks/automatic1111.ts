/** Pictures made by AUTOMATIC1111's web UI, or by Forge, SD.Next or stable-diffusion.cpp through the same routes. In: words, a picture, a mask. */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { batchSize, drawnSeed, guidanceScale, image, prompt, size, steps, strength } from '../src/core/parameters.ts';
import {
  PICTURE_OUTPUTS,
  PICTURE_STAGES,
  commonRequest,
  makePictures,
  maskField,
  pictureFields,
} from '../src/core/picture_service.ts';
import type { PictureRequest } from '../src/core/picture_service.ts';

export const meta = {
  id: 'automatic1111',
  media: 'image',
  operations: ['image_generation', 'image_transform', 'image_inpaint'],
  needs: { gpu: false, remote: 'automatic1111' },
  stages: PICTURE_STAGES,
  outputs: PICTURE_OUTPUTS,
} as const satisfies ChunkMeta;

const MASKED = 'mask_image belongs to an image: give the picture that it covers, too.';
const sampler = (name: string) => v.optional(v.string(`${name} must be a name that the server knows.`));

const { model, server } = pictureFields(1);

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    image: v.optional(image('image')),
    mask_image: maskField(),
    strength: v.optional(strength(), 0.75),
    width: v.optional(size('width', 64, 2048), 512),
    height: v.optional(size('height', 64, 2048), 512),
    steps: v.optional(steps(1, 150), 20),
    guidance_scale: v.optional(guidanceScale(), 7),
    /** By the server's names; its own defaults if absent. */
    sampler: sampler('sampler'),
    scheduler: sampler('scheduler'),
    seed: drawnSeed(),
    batch_size: v.optional(batchSize(8), 1),
    model,
    server,
  }),
  v.check(({ image: given, mask_image: mask }) => given !== undefined || mask === undefined, MASKED),
  v.check(
    ({ operation, image: given }) => operation === 'image_generation' || given !== undefined,
    'image must be a picture to start from.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

export interface Automatic1111Request
  extends
    PictureRequest,
    Pick<
      Input,
      | 'negative_prompt'
      | 'strength'
      | 'width'
      | 'height'
      | 'steps'
      | 'guidance_scale'
      | 'sampler'
      | 'scheduler'
      | 'seed'
      | 'batch_size'
    > {}

export function execute({ image: given, mask_image: mask, ...input }: Input, context: Context): Promise<Outputs> {
  const common = commonRequest({ ...input, images: given === undefined ? [] : [given] }, mask);
  return makePictures({ ...input, ...common }, meta, context);
}
