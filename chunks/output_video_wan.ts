/**
 * A video from words with Wan 2.1 or 2.2, which may begin with a picture. In: prompt, settings and perhaps the picture. Out: one video, whose frames are encoded as they are decoded. Cost: a run of
 * the transformer over all frames per step, twice with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { makeVideo } from '../src/core/filming.ts';
import { FILMING_STAGES } from '../src/core/painting.ts';
import { background, guidanceScale, loras, prompt, steps, weights } from '../src/core/parameters.ts';
import { samplingEntries } from '../src/core/painting_parameters.ts';
import { BACKGROUND_PROBLEM, firstImage, framesEntry, lastImage, videoEntries } from '../src/core/video_parameters.ts';

export const meta = {
  id: 'output_video_wan',
  media: 'video',
  operations: ['video_generation'],
  needs: { gpu: true, checkpoint: ['WanPipeline', 'WanImageToVideoPipeline'] },
  stages: FILMING_STAGES,
  outputs: { video: { medium: 'video' } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

/** Frames that each of its latents but the first stands for. */
const PIECE = 4;
const MOST_FRAMES = 1021;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Counts with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    frames: framesEntry(PIECE, MOST_FRAMES, 81, { min: 5, max: 121 }),
    ...videoEntries({ multiple: 16, rate: 16 }),
    steps: v.optional(steps(1, 150), 50),
    guidance_scale: v.optional(guidanceScale(), 5),
    ...samplingEntries(),
    image: v.optional(firstImage()),
    last_image: v.optional(lastImage()),
    background: v.optional(background()),
    loras: v.optional(loras()),
    weights: v.optional(weights(), 'auto'),
    phased: v.optional(v.boolean('phased must be true or false.')),
  }),
  v.check(
    ({ frames, last_image: last }) => last === undefined || frames > PIECE,
    'A video that ends with a given picture has at least 5 frames.',
  ),
  v.check(({ image: given, background: behind }) => given !== undefined || behind === undefined, BACKGROUND_PROBLEM),
);

type Input = v.InferOutput<typeof parameters>;

export function execute(input: Input, context: Context): Promise<Outputs> {
  return makeVideo(input, context, PIECE);
}
