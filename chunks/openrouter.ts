/** Pictures by a model behind OpenRouter, with a person's own key. In: words, reference pictures. */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { integer } from '../src/core/parameters.ts';
import {
  PICTURE_OUTPUTS,
  PICTURE_STAGES,
  commonRequest,
  makePictures,
  pictureFields,
} from '../src/core/picture_service.ts';
import type { PictureRequest } from '../src/core/picture_service.ts';

export const meta = {
  id: 'openrouter',
  media: 'image',
  operations: ['image_generation', 'image_transform'],
  needs: { gpu: false, remote: 'openrouter' },
  stages: PICTURE_STAGES,
  outputs: PICTURE_OUTPUTS,
} as const satisfies ChunkMeta;

const RATIO = 'aspect_ratio must be two whole numbers such as 16:9.';
const RESOLUTIONS = ['512', '1K', '2K', '4K'] as const;
const QUALITIES = ['auto', 'low', 'medium', 'high'] as const;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    ...pictureFields(16),
    aspect_ratio: v.optional(v.pipe(v.string(RATIO), v.regex(/^[1-9]\d?:[1-9]\d?$/, RATIO))),
    resolution: v.optional(v.picklist(RESOLUTIONS, `resolution must be one of ${RESOLUTIONS.join(', ')}.`)),
    quality: v.optional(v.picklist(QUALITIES, `quality must be one of ${QUALITIES.join(', ')}.`)),
    batch_size: v.optional(integer('batch_size', 1, 10), 1),
  }),
  v.check(
    ({ operation, images: given = [] }) => operation === 'image_generation' || given.length > 0,
    'images must hold at least one picture to go by.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

type OpenRouterRequest = PictureRequest & Pick<Input, 'aspect_ratio' | 'resolution' | 'quality'> & { n: number };

export function execute({ batch_size: n, ...input }: Input, context: Context): Promise<Outputs> {
  const request: OpenRouterRequest = { ...input, ...commonRequest(input), n };
  return makePictures(request, meta, context);
}
