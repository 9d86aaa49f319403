/** Pictures by OpenAI's image routes, with a person's own key. In: words, up to sixteen reference pictures, a mask over the first. */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { integer } from '../src/core/parameters.ts';
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
  id: 'openai_images',
  media: 'image',
  operations: ['image_generation', 'image_transform', 'image_inpaint'],
  needs: { gpu: false, remote: 'openai_images' },
  stages: PICTURE_STAGES,
  outputs: PICTURE_OUTPUTS,
} as const satisfies ChunkMeta;

const SIZE = 'size must be auto, or width and height such as 1536x1024, both multiples of 16.';
const QUALITIES = ['auto', 'low', 'medium', 'high', 'xhigh', 'max'] as const;
const BACKGROUNDS = ['auto', 'opaque', 'transparent'] as const;
const FORMATS = ['png', 'jpeg', 'webp'] as const;
const oneOf = (name: string, values: readonly string[]) => `${name} must be one of ${values.join(', ')}.`;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    ...pictureFields(16),
    mask_image: maskField(),
    size: v.optional(
      v.pipe(
        v.string(SIZE),
        v.regex(/^(auto|[1-9]\d{1,3}x[1-9]\d{1,3})$/, SIZE),
        v.check((text) => text.split('x').every((side) => side === 'auto' || Number(side) % 16 === 0), SIZE),
      ),
    ),
    quality: v.optional(v.picklist(QUALITIES, oneOf('quality', QUALITIES))),
    background: v.optional(v.picklist(BACKGROUNDS, oneOf('background', BACKGROUNDS))),
    output_format: v.optional(v.picklist(FORMATS, oneOf('output_format', FORMATS))),
    output_compression: v.optional(integer('output_compression', 0, 100)),
    moderation: v.optional(v.picklist(['auto', 'low'], 'moderation must be auto or low.')),
    /** Drafts shown while a picture is made; each adds a little to the charge. */
    partial_images: v.optional(integer('partial_images', 0, 3), 1),
    batch_size: v.optional(integer('batch_size', 1, 10), 1),
  }),
  v.check(
    ({ images: given = [], mask_image: mask }) => given.length > 0 || mask === undefined,
    'mask_image belongs to a picture: give the one that it covers as the first of images.',
  ),
  v.check(
    ({ operation, images: given = [] }) => operation === 'image_generation' || given.length > 0,
    'images must hold at least one picture to go by.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

type OpenAiImagesRequest = PictureRequest &
  Pick<
    Input,
    'size' | 'quality' | 'background' | 'output_format' | 'output_compression' | 'moderation' | 'partial_images'
  > & { n: number };

export function execute({ mask_image: mask, batch_size: n, ...input }: Input, context: Context): Promise<Outputs> {
  const request: OpenAiImagesRequest = { ...input, ...commonRequest(input, mask), n };
  return makePictures(request, meta, context);
}
