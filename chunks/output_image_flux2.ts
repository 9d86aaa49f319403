/**
 * A picture from words with FLUX.2 klein or dev, which can also take pictures: to edit them, or as references for things and styles. In: prompt,
 * pictures and settings. Out: `batch_size` pictures. Cost: one run of the transformer per step and picture, two with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { FLOW_GUIDANCE_METHODS, NO_APG, guidanceEntries, isWholeGuidance } from '../src/core/guidance.ts';
import { STRAY_SHIFT, isWholeShift, modelSamplingEntries } from '../src/core/model_sampling.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import { samplingEntries } from '../src/core/painting_parameters.ts';
import {
  batchSize,
  flowShift,
  guidanceScale,
  images,
  phased,
  prompt,
  size,
  steps,
  weights,
} from '../src/core/parameters.ts';

export const meta = {
  id: 'output_image_flux2',
  media: 'image',
  operations: ['image_generation'],
  needs: { gpu: true, checkpoint: ['Flux2Pipeline', 'Flux2KleinPipeline', 'Flux2KleinInpaintPipeline'] },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

/** Pixels per side of a token. */
const MULTIPLE = 16;
/** Each costs as much as making a picture of its size. */
const MOST_PICTURES = 8;
const TILE = 'tile_size must be a multiple of 64 from 128 to 2048 pixels.';

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    images: v.optional(
      v.pipe(
        images('images', MOST_PICTURES),
        v.metadata({ words: 'pictures_to_work_from', group: 'main' } satisfies FieldMetadata),
      ),
    ),
    width: v.optional(size('width', MULTIPLE, 4096, MULTIPLE)),
    height: v.optional(size('height', MULTIPLE, 4096, MULTIPLE)),
    steps: v.optional(steps(1, 150), 4),
    guidance_scale: v.optional(
      v.pipe(
        guidanceScale(),
        v.metadata({ words: 'flux2_guidance', slider: { min: 1, max: 10, step: 0.5 } } satisfies FieldMetadata),
      ),
      1,
    ),
    ...guidanceEntries(FLOW_GUIDANCE_METHODS),
    shift: v.optional(flowShift()),
    ...modelSamplingEntries(),
    ...samplingEntries(),
    batch_size: v.optional(batchSize(), 1),
    weights: v.optional(weights(), 'auto'),
    tile_size: v.optional(
      v.pipe(v.number(TILE), v.integer(TILE), v.minValue(128, TILE), v.maxValue(2048, TILE), v.multipleOf(64, TILE)),
    ),
    phased: v.optional(phased()),
  }),
  v.check((input) => isWholeGuidance(input), NO_APG),
  v.check((input) => isWholeShift(input), STRAY_SHIFT),
);

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  // Guidance leads away from a run without words, or is an input of the network.
  return { images: await paint({ ...input, negative_prompt: '' }, context) };
}
