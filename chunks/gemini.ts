/** Pictures by Gemini, with a person's own key. In: words, up to fourteen reference pictures. Out: one picture. */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import {
  PICTURE_OUTPUTS,
  PICTURE_STAGES,
  commonRequest,
  makePictures,
  pictureFields,
} from '../src/core/picture_service.ts';
import type { PictureRequest } from '../src/core/picture_service.ts';

export const meta = {
  id: 'gemini',
  media: 'image',
  operations: ['image_generation', 'image_transform'],
  needs: { gpu: false, remote: 'gemini' },
  stages: PICTURE_STAGES,
  outputs: PICTURE_OUTPUTS,
} as const satisfies ChunkMeta;

const RATIOS = [
  '1:1',
  '2:3',
  '3:2',
  '3:4',
  '4:3',
  '4:5',
  '5:4',
  '9:16',
  '16:9',
  '21:9',
  '1:4',
  '4:1',
  '1:8',
  '8:1',
] as const;
const SIZES = ['512', '1K', '2K', '4K'] as const;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    ...pictureFields(14),
    aspect_ratio: v.optional(v.picklist(RATIOS, `aspect_ratio must be one of ${RATIOS.join(', ')}.`)),
    image_size: v.optional(v.picklist(SIZES, `image_size must be one of ${SIZES.join(', ')}.`)),
  }),
  v.check(
    ({ operation, images: given = [] }) => operation === 'image_generation' || given.length > 0,
    'images must hold at least one picture to go by.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

export function execute(input: Input, context: Context): Promise<Outputs> {
  const request: PictureRequest & Pick<Input, 'aspect_ratio' | 'image_size'> = {
    ...input,
    ...commonRequest(input),
  };
  return makePictures(request, meta, context);
}
