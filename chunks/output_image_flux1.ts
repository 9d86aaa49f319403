/**
 * A picture from words with FLUX.1 schnell or dev, from scratch or from another picture. In: prompt and settings. Out: `batch_size`
 * pictures. Cost: one run of the transformer per step and picture.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import { hasItsStart, paintingEntries, startProblem } from '../src/core/painting_parameters.ts';
import { guidanceScale, prompt } from '../src/core/parameters.ts';

export const meta = {
  id: 'output_image_flux1',
  media: 'image',
  operations: ['image_generation', 'image_transform'],
  needs: { gpu: true, checkpoint: ['FluxPipeline', 'FluxImg2ImgPipeline'] },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    guidance_scale: v.optional(
      v.pipe(
        guidanceScale(),
        v.metadata({ words: 'flux1_guidance', slider: { min: 1, max: 10, step: 0.5 } } satisfies FieldMetadata),
      ),
      3.5,
    ),
    ...paintingEntries({ multiple: 16, usualSteps: 28 }),
  }),
  v.check((input) => hasItsStart(input), startProblem),
);

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  // Guidance is an input of the network, so there is no negative prompt.
  return { images: await paint({ ...input, negative_prompt: '' }, context) };
}
