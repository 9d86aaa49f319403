/**
 * The layers of a picture with Qwen-Image-Layered, each with its transparency. In: a picture, words that say what it shows, and settings. Out:
 * `layers` pictures, from the one behind all others. Cost: one run of the transformer per step over all layers and the picture, two with guidance.
 */
import * as v from 'valibot';
import { sidesInMultiples } from '../src/core/area_sides.ts';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { NO_APG, QWEN_GUIDANCE_METHODS, guidanceEntries, isWholeGuidance } from '../src/core/guidance.ts';
import { STRAY_SHIFT, isWholeShift, modelSamplingEntries } from '../src/core/model_sampling.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import { samplingEntries } from '../src/core/painting_parameters.ts';
import {
  flowShift,
  guidanceScale,
  image,
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
  id: 'output_image_qwen_image_layered',
  media: 'image',
  operations: ['image_transform'],
  needs: { gpu: true, checkpoint: ['QwenImageLayeredPipeline'] },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  keepsTransparency: true,
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

/** Pixels per side of a token. */
const MULTIPLE = 16;

/** Sides of the squares whose areas the model knows, in pixels. */
const RESOLUTIONS = [640, 1024] as const;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    /** What the picture shows, also what is hidden; the authors' own pipeline has the text encoder write it where it is empty. */
    prompt: v.pipe(
      prompt('prompt'),
      v.check(
        (text) => text.trim() !== '',
        'prompt is empty: Qwen-Image-Layered needs words for what the picture shows; describe it.',
      ),
      v.metadata({ words: 'picture_in_words' } satisfies FieldMetadata),
    ),
    image: v.pipe(image('image'), v.metadata({ words: 'picture_to_take_apart' } satisfies FieldMetadata)),
    layers: v.optional(
      v.pipe(integer('layers', 1, 16), v.metadata({ slider: { min: 1, max: 8, step: 1 } } satisfies FieldMetadata)),
      4,
    ),
    /** Only used with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    /** Where no width and height are said: the layers have about the area of a square with this side, in the picture's proportions. */
    resolution: v.optional(v.picklist(RESOLUTIONS, 'resolution must be 640 or 1024.'), 640),
    width: v.optional(size('width', MULTIPLE, 4096, MULTIPLE)),
    height: v.optional(size('height', MULTIPLE, 4096, MULTIPLE)),
    steps: v.optional(steps(1, 150), 50),
    guidance_scale: v.optional(
      v.pipe(guidanceScale(), v.metadata({ slider: { min: 1, max: 10, step: 0.5 } } satisfies FieldMetadata)),
      4,
    ),
    ...guidanceEntries(QWEN_GUIDANCE_METHODS),
    shift: v.optional(flowShift()),
    ...modelSamplingEntries(),
    ...samplingEntries(),
    loras: v.optional(v.pipe(loras(), v.metadata({ group: 'none' } satisfies FieldMetadata))),
    weights: v.optional(weights(), 'auto'),
    tile_size: v.optional(tileSize()),
    phased: v.optional(phased()),
  }),
  v.check((input) => isWholeGuidance(input), NO_APG),
  v.check((input) => isWholeShift(input), STRAY_SHIFT),
);

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  const { image, layers, resolution, ...rest } = input;
  const painting = { ...rest, images: [image], batch_size: layers };
  const images = await paint(painting, context, ([given], { summary: { multiple = MULTIPLE } }) =>
    sidesInMultiples(given, resolution ** 2, multiple),
  );
  return { images };
}
