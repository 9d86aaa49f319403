/**
 * A video from words with LTX-Video, which may begin with a picture. In: prompt, settings and perhaps the picture. Out: one video, whose frames are encoded as they are decoded. Cost: a run of the
 * transformer over all frames per step, twice with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { makeVideo } from '../src/core/filming.ts';
import { FILMING_STAGES } from '../src/core/painting.ts';
import { background, guidanceScale, loras, prompt, real, steps, weights } from '../src/core/parameters.ts';
import { samplingEntries } from '../src/core/painting_parameters.ts';
import { isWholeUpsampling, upsamplingEntries, upsamplingProblem } from '../src/core/upsampling_parameters.ts';
import {
  BACKGROUND_PROBLEM,
  firstImage,
  framesEntry,
  hasItsTimesteps,
  lastImage,
  timesteps,
  timestepsProblem,
  videoEntries,
} from '../src/core/video_parameters.ts';

export const meta = {
  id: 'output_video_ltx',
  media: 'video',
  operations: ['video_generation'],
  needs: {
    gpu: true,
    checkpoint: ['LTXPipeline', 'LTXImageToVideoPipeline', 'LTXConditionPipeline'],
    further: { latent_upsampler: ['LTXLatentUpsamplePipeline'] },
  },
  stages: FILMING_STAGES,
  outputs: { video: { medium: 'video' } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

/** Frames that each of its latents but the first stands for. */
const PIECE = 8;
const MOST_FRAMES = 1025;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Counts with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    frames: framesEntry(PIECE, MOST_FRAMES, 97, { min: 9, max: 257 }),
    ...videoEntries({ multiple: 32, rate: 25 }),
    // The schedule stretches what lies between its ends, so there are two.
    steps: v.optional(steps(2, 150), 50),
    timesteps: v.optional(timesteps()),
    guidance_scale: v.optional(guidanceScale(), 3),
    ...samplingEntries(),
    image: v.optional(firstImage()),
    last_image: v.optional(lastImage()),
    background: v.optional(background()),
    /** Of decoders that are told how much noise there is, and how much they are given. */
    decode_timestep: v.optional(
      v.pipe(
        real('decode_timestep', 0, 1),
        v.metadata({
          label: { en: 'Noise that the decoder takes away', de: 'Rauschen, das der Dekoder entfernt' },
        } satisfies FieldMetadata),
      ),
      0.05,
    ),
    decode_noise_scale: v.optional(
      v.pipe(
        real('decode_noise_scale', 0, 1),
        v.metadata({
          label: { en: 'Noise added before decoding', de: 'Rauschen vor dem Dekodieren' },
        } satisfies FieldMetadata),
      ),
      0.025,
    ),
    ...upsamplingEntries(),
    loras: v.optional(loras()),
    weights: v.optional(weights(), 'auto'),
    phased: v.optional(v.boolean('phased must be true or false.')),
  }),
  v.check(
    ({ image: first, last_image: last, background: behind }) =>
      first !== undefined || last !== undefined || behind === undefined,
    BACKGROUND_PROBLEM,
  ),
  v.check((input) => hasItsTimesteps(input), timestepsProblem),
  v.check((input) => isWholeUpsampling(input), upsamplingProblem),
);

type Input = v.InferOutput<typeof parameters>;

export function execute(input: Input, context: Context): Promise<Outputs> {
  return makeVideo(input, context, PIECE, { timestep: input.decode_timestep, share: input.decode_noise_scale });
}
