/**
 * A picture from words with Qwen-Image: from scratch, from another picture, or in the white part of a mask. In: prompt and settings. Out:
 * `batch_size` pictures. Cost: one run of the transformer per step and picture, two with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { QWEN_GUIDANCE_METHODS, NO_APG, guidanceEntries, isWholeGuidance } from '../src/core/guidance.ts';
import { PAINTING_STAGES, paint } from '../src/core/painting.ts';
import { hasItsStart, maskEntries, paintingEntries, startProblem } from '../src/core/painting_parameters.ts';
import { guidanceScale, prompt } from '../src/core/parameters.ts';

export const meta = {
  id: 'output_image_qwen_image',
  media: 'image',
  operations: ['image_generation', 'image_transform', 'image_inpaint', 'image_outpaint'],
  needs: { gpu: true, checkpoint: ['QwenImagePipeline', 'QwenImageImg2ImgPipeline', 'QwenImageInpaintPipeline'] },
  stages: PAINTING_STAGES,
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Only used with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    guidance_scale: v.optional(guidanceScale(), 4),
    ...guidanceEntries(QWEN_GUIDANCE_METHODS),
    ...paintingEntries({ multiple: 16, usualSteps: 50 }),
    ...maskEntries(),
  }),
  v.check((input) => hasItsStart(input), startProblem),
  v.check((input) => isWholeGuidance(input), NO_APG),
);

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  return { images: await paint(input, context) };
}
