/**
 * A picture from words with FLUX.2 klein, which may be shown pictures: to change them, or to take things and styles from them. In: prompt,
 * pictures and settings. Out: `batch_size` pictures. Cost: one run of the transformer per step and picture, two with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import { batchSize, guidanceScale, images, prompt, seed, size, steps, weights } from '../src/core/parameters.ts';

export const meta = {
  id: 'output_image_flux2',
  media: 'image',
  operations: ['image_generation'],
  needs: { gpu: true, checkpoint: ['Flux2KleinPipeline', 'Flux2KleinInpaintPipeline'] },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

/** Pixels per side of a token. */
const MULTIPLE = 16;
/** Each costs as much as a picture of its size that is made. */
const MOST_PICTURES = 8;
const TILE = 'tile_size must be a multiple of 64 from 128 to 2048 pixels.';

export const parameters = v.strictObject({
  operation: v.picklist(meta.operations),
  prompt: prompt('prompt'),
  images: v.optional(
    v.pipe(
      images('images', MOST_PICTURES),
      v.metadata({
        label: { en: 'Pictures to work from', de: 'Bilder als Vorlage' },
        help: {
          en: 'Say in the prompt what is to become of them, in their order: "the cat of the first picture on the chair of the second".',
          de: 'Im Prompt steht, was aus ihnen werden soll, in ihrer Reihenfolge: „die Katze aus dem ersten Bild auf dem Stuhl aus dem zweiten“.',
        },
        group: 'main',
      } satisfies FieldMetadata),
    ),
  ),
  width: v.optional(size('width', 64, 4096, MULTIPLE)),
  height: v.optional(size('height', 64, 4096, MULTIPLE)),
  steps: v.optional(steps(1, 150), 4),
  guidance_scale: v.optional(
    v.pipe(
      guidanceScale(),
      v.metadata({
        help: {
          en: 'How closely the picture follows your words, above 1. The distilled checkpoints do without it.',
          de: 'Wie genau das Bild den Worten folgt, ab 1. Die destillierten Checkpoints kommen ohne aus.',
        },
        slider: { min: 1, max: 10, step: 0.5 },
      } satisfies FieldMetadata),
    ),
    1,
  ),
  seed: v.optional(seed(), () => String(crypto.getRandomValues(new Uint32Array(1))[0])),
  batch_size: v.optional(batchSize(), 1),
  weights: v.optional(weights(), 'auto'),
  tile_size: v.optional(
    v.pipe(v.number(TILE), v.integer(TILE), v.minValue(128, TILE), v.maxValue(2048, TILE), v.multipleOf(64, TILE)),
  ),
});

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  // A run without words is what guidance leads away from.
  return { images: await paint({ ...input, negative_prompt: '' }, context) };
}
