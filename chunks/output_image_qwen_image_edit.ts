/**
 * A picture made of one to three others with Qwen-Image-Edit, by what the prompt says of them. In: prompt, pictures and settings. Out:
 * `batch_size` pictures. Cost: one run of the transformer per step and picture, two with guidance, each over the given pictures, too.
 */
import * as v from 'valibot';
import { MEGAPIXEL, sidesInMultiples } from '../src/core/area_sides.ts';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { NO_APG, QWEN_GUIDANCE_METHODS, guidanceEntries, isWholeGuidance } from '../src/core/guidance.ts';
import type { PixelImage } from '../src/core/media.ts';
import type { Model } from '../src/core/model.ts';
import { STRAY_SHIFT, isWholeShift, modelSamplingEntries } from '../src/core/model_sampling.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import { samplingEntries } from '../src/core/painting_parameters.ts';
import {
  batchSize,
  flowShift,
  guidanceScale,
  images,
  integer,
  loras,
  phased,
  prompt,
  size,
  steps,
  tileSize,
  weights,
} from '../src/core/parameters.ts';

export const meta = {
  id: 'output_image_qwen_image_edit',
  media: 'image',
  operations: ['image_generation'],
  needs: { gpu: true, checkpoint: ['QwenImageEditPipeline', 'QwenImageEditPlusPipeline'] },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

/** What the authors taught the models of 2509 and 2511 with; the first one works from one. */
const MOST_PICTURES = 3;

/** Pixels per side of a token. */
const MULTIPLE = 16;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    images: v.pipe(
      images('images', MOST_PICTURES),
      v.minLength(1, 'images is missing: Qwen-Image-Edit works from one to three pictures.'),
      v.metadata({ words: 'pictures_to_work_from', group: 'main' } satisfies FieldMetadata),
    ),
    /** Only used with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    width: v.optional(size('width', MULTIPLE, 4096, MULTIPLE)),
    height: v.optional(size('height', MULTIPLE, 4096, MULTIPLE)),
    steps: v.optional(steps(1, 150), 40),
    guidance_scale: v.optional(
      v.pipe(guidanceScale(), v.metadata({ slider: { min: 1, max: 10, step: 0.5 } } satisfies FieldMetadata)),
      4,
    ),
    ...guidanceEntries(QWEN_GUIDANCE_METHODS),
    shift: v.optional(flowShift()),
    ...modelSamplingEntries(),
    ...samplingEntries(),
    /** The number of the picture in whose proportions the result is where no size is said; absent = the last. */
    proportions_of: v.optional(integer('proportions_of', 1, MOST_PICTURES)),
    batch_size: v.optional(batchSize(), 1),
    loras: v.optional(v.pipe(loras(), v.metadata({ group: 'none' } satisfies FieldMetadata))),
    weights: v.optional(weights(), 'auto'),
    tile_size: v.optional(tileSize()),
    phased: v.optional(phased()),
  }),
  v.check((input) => isWholeGuidance(input), NO_APG),
  v.check((input) => isWholeShift(input), STRAY_SHIFT),
);

/** A megapixel in the proportions of one picture; diffusers takes the last. */
function sizeFor(given: readonly PixelImage[], { summary: { multiple = MULTIPLE } }: Model, from = given.length) {
  if (from > given.length) {
    throw new StudioError(
      'invalid_operation',
      `proportions_of is ${from}, and ${given.length} pictures are given; choose one of these, or leave it out.`,
    );
  }
  return sidesInMultiples(given[from - 1], MEGAPIXEL, multiple);
}

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  return { images: await paint(input, context, (given, model) => sizeFor(given, model, input.proportions_of)) };
}
