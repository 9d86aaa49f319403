/**
 * Larger pictures, by an upscaling network. In: pictures. Out: each of them `scale` times as wide and high, with its transparency. Cost:
 * one run of the network per tile.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import type { PixelImage } from '../src/core/media.ts';
import { UPSCALING_TILE } from '../src/core/model.ts';
import { image, images, integer, tileSize } from '../src/core/parameters.ts';

export const meta = {
  id: 'upscale_image',
  media: 'image',
  operations: ['image_upscale'],
  needs: { gpu: true, checkpoint: ['RRDBNet', 'SRVGGNetCompact'] },
  stages: [{ id: 'upscale', label: { en: 'Enlarging', de: 'Vergrößert' }, unit: 'tiles', weight: 2 }],
  outputs: { images: { medium: 'image', many: true } },
  keepsTransparency: true,
} as const satisfies ChunkMeta;

const SCALES = { slider: { min: 2, max: 4, step: 1 } } satisfies FieldMetadata;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    /** One picture, or several in `images`. */
    image: v.optional(image('image')),
    images: v.optional(v.pipe(images('images'), v.metadata({ group: 'none' } satisfies FieldMetadata))),
    /** The network's own factor by default. */
    scale: v.optional(v.pipe(integer('scale', 1, 8), v.metadata(SCALES))),
    tile_size: v.optional(tileSize(), UPSCALING_TILE),
  }),
  v.check(
    ({ image, images }) => (image === undefined) !== (images === undefined),
    'image is missing: give the picture to enlarge as image, or several of them as images, not both.',
  ),
  v.check(({ images }) => images?.length !== 0, 'images is empty: give at least one picture to enlarge.'),
);

export async function execute(
  { image, images, scale, tile_size }: v.InferOutput<typeof parameters>,
  { checkpoint, models, readImage, progress, signal }: Context,
): Promise<Outputs> {
  const given = images ?? [image ?? ''];
  progress('upscale');
  const upscaler = await models.loadUpscaler(checkpoint);
  const enlarged: PixelImage[] = [];
  for (const [n, source] of given.entries()) {
    const picture = await readImage(source, images ? 'images' : 'image');
    const onTile = (done: number, tiles: number) => {
      progress('upscale', n * tiles + done, given.length * tiles);
    };
    enlarged.push(await upscaler.upscale(picture, { scale, tile_size, signal, onTile }));
  }
  return { images: enlarged };
}
