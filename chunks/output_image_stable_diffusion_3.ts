/**
 * A picture from words with Stable Diffusion 3 or 3.5: from scratch, from another picture, or in the white part of a mask. In: prompt and
 * settings. Out: `batch_size` pictures. Cost: one run of the transformer per step and picture, two with guidance, three in the steps of
 * skip-layer guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { FLOW_GUIDANCE_METHODS, NO_APG, guidanceEntries, isWholeGuidance } from '../src/core/guidance.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import { hasItsStart, maskEntries, paintingEntries, startProblem } from '../src/core/painting_parameters.ts';
import { guidanceScale, prompt, real } from '../src/core/parameters.ts';

export const meta = {
  id: 'output_image_stable_diffusion_3',
  media: 'image',
  operations: ['image_generation', 'image_transform', 'image_inpaint', 'image_outpaint'],
  needs: {
    gpu: true,
    checkpoint: ['StableDiffusion3Pipeline', 'StableDiffusion3Img2ImgPipeline', 'StableDiffusion3InpaintPipeline'],
  },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

/** The number of blocks in the largest checkpoint. */
const MOST_LAYERS = 38;
const LAYERS = 'skip_guidance_layers must be a list of numbers of layers, counted from 0, such as [7, 8, 9].';

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Only used with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    guidance_scale: v.optional(guidanceScale(), 7),
    ...guidanceEntries(FLOW_GUIDANCE_METHODS),
    ...paintingEntries({ multiple: 16, usualSteps: 28 }),
    ...maskEntries(),
    skip_guidance_layers: v.optional(
      v.pipe(
        v.array(v.pipe(v.number(LAYERS), v.integer(LAYERS), v.minValue(0, LAYERS)), LAYERS),
        v.maxLength(MOST_LAYERS, LAYERS),
      ),
    ),
    skip_layer_guidance_scale: v.optional(
      v.pipe(
        real('skip_layer_guidance_scale', 0, 100),
        v.metadata({ slider: { min: 0, max: 10, step: 0.1 } } satisfies FieldMetadata),
      ),
      2.8,
    ),
    skip_layer_guidance_start: v.optional(real('skip_layer_guidance_start', 0, 1), 0.01),
    skip_layer_guidance_stop: v.optional(real('skip_layer_guidance_stop', 0, 1), 0.2),
  }),
  v.check((input) => hasItsStart(input), startProblem),
  v.check((input) => isWholeGuidance(input), NO_APG),
  v.check(
    ({ skip_guidance_layers: layers = [], guidance_scale: scale }) => layers.length === 0 || scale > 1,
    'skip_guidance_layers counts only with a guidance_scale above 1; raise it, or leave the layers out.',
  ),
);

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  return { images: await paint(input, context) };
}
