/**
 * A picture from words with FLUX.3 klein, which can also take pictures: one to edit, which is kept whole, or several as references. In:
 * prompt, pictures and settings. Out: `batch_size` pictures, of the size of a picture that is given alone where no other is asked for. Cost: one
 * run of the transformer per step and picture, two with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { FLOW_GUIDANCE_METHODS, NO_APG, guidanceEntries, isWholeGuidance } from '../src/core/guidance.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import { samplingEntries } from '../src/core/painting_parameters.ts';
import { batchSize, flowShift, images, phased, prompt, real, size, steps, weights } from '../src/core/parameters.ts';
import { partOf, type PicturePart } from '../src/core/picture_part.ts';
import { referenceCanvas } from '../src/core/reference_canvas.ts';

export const meta = {
  id: 'output_image_flux3',
  media: 'image',
  operations: ['image_generation'],
  needs: { gpu: true, checkpoint: ['Flux3DistilledModularPipeline', 'Flux3ModularPipeline'] },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

/** Pixels per side of a token. */
const MULTIPLE = 16;
/** Each costs as much as making a picture of its size. */
const MOST_PICTURES = 10;
const TILE = 'tile_size must be a multiple of 64 from 128 to 2048 pixels.';

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Only used with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    images: v.optional(
      v.pipe(
        images('images', MOST_PICTURES),
        v.metadata({ words: 'pictures_to_work_from', group: 'main' } satisfies FieldMetadata),
      ),
    ),
    width: v.optional(size('width', MULTIPLE, 4096, MULTIPLE)),
    height: v.optional(size('height', MULTIPLE, 4096, MULTIPLE)),
    steps: v.optional(steps(1, 150), 16),
    guidance_scale: v.optional(
      v.pipe(
        real('guidance_scale', 1, 100),
        v.metadata({ words: 'flux2_guidance', slider: { min: 1, max: 10, step: 0.5 } } satisfies FieldMetadata),
      ),
      1,
    ),
    ...guidanceEntries(FLOW_GUIDANCE_METHODS),
    shift: v.optional(flowShift()),
    ...samplingEntries(),
    batch_size: v.optional(batchSize(), 1),
    weights: v.optional(weights(), 'auto'),
    tile_size: v.optional(
      v.pipe(v.number(TILE), v.integer(TILE), v.minValue(128, TILE), v.maxValue(2048, TILE), v.multipleOf(64, TILE)),
    ),
    phased: v.optional(phased()),
  }),
  v.check((input) => isWholeGuidance(input), NO_APG),
);

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  const isSized = input.width !== undefined || input.height !== undefined;
  const parts: PicturePart[] = [];
  const made = await paint(input, context, ([first, ...others], { summary: { multiple = MULTIPLE } }) => {
    if (others.length > 0) {
      return undefined;
    }
    const { width, height, picture } = referenceCanvas(first, multiple);
    if (!isSized) {
      parts.push(picture);
    }
    return { width, height };
  });
  // What was made of the canvas around a picture goes again.
  return { images: made.map((image) => parts.reduce(partOf, image)) };
}
