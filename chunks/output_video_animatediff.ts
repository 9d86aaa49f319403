/**
 * A short video from words with AnimateDiff, or from a picture that every frame starts as. In: prompt and settings. Out: one video, whose
 * frames are encoded as they are decoded. Cost: that of as many pictures of a Stable Diffusion 1.5 as there are frames, all at once.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { film } from '../src/core/filming.ts';
import type { Latents, Model } from '../src/core/model.ts';
import { FILMING_STAGES, pictureSize, sayWhatWasCut, watched } from '../src/core/painting.ts';
import {
  background,
  guidanceScale,
  image,
  integer,
  loras,
  prompt,
  steps,
  strength,
  tileSize,
  usualStrength,
  weights,
} from '../src/core/parameters.ts';
import { samplingEntries } from '../src/core/painting_parameters.ts';
import { videoEntries } from '../src/core/video_parameters.ts';

export const meta = {
  id: 'output_video_animatediff',
  media: 'video',
  operations: ['video_generation'],
  needs: { gpu: true, checkpoint: ['AnimateDiffPipeline', 'AnimateDiffVideoToVideoPipeline'] },
  stages: FILMING_STAGES,
  outputs: { video: { medium: 'video' } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Only used with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    frames: v.optional(
      v.pipe(
        integer('frames', 1, 256),
        v.metadata({
          label: { en: 'Frames', de: 'Bilder' },
          slider: { min: 8, max: 32, step: 1 },
          group: 'main',
        } satisfies FieldMetadata),
      ),
      16,
    ),
    ...videoEntries({ multiple: 8, rate: 8 }),
    steps: v.optional(steps(1, 150), 25),
    guidance_scale: v.optional(guidanceScale(), 7.5),
    ...samplingEntries(),
    image: v.optional(image('image')),
    strength: v.optional(strength()),
    background: v.optional(background()),
    loras: v.optional(loras()),
    weights: v.optional(weights(), 'auto'),
    tile_size: v.optional(tileSize()),
    phased: v.optional(v.boolean('phased must be true or false.')),
  }),
  v.check(
    ({ image: given, strength: amount, background: behind }) =>
      given !== undefined || (amount === undefined && behind === undefined),
    'strength and background count only where an image is given.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

export async function execute(input: Input, context: Context): Promise<Outputs> {
  const { progress } = context;
  const { takeLoraTags } = await import('../src/core/lora_tags.ts');
  const { words, loras: tagged } = takeLoraTags(input.prompt, input.steps);
  const model = await context.models.load(context.checkpoint, { loras: [...(input.loras ?? []), ...tagged] });
  requireFrames(input, model);
  const picture = input.image === undefined ? undefined : await context.readImage(input.image, 'image');
  const size = pictureSize(input, picture, model, context);
  const batch_size = input.frames;
  const [{ noiseSource }, { FrameNoise }] = await Promise.all([
    import('../src/core/noise_sources.ts'),
    import('../src/core/frame_noise.ts'),
  ]);
  const random = new FrameNoise(noiseSource({ seed: input.seed, batch_size: 1 }), picture !== undefined);

  progress('encode');
  const text = await model.encodeText({ ...input, prompt: words, batch_size });
  let start: Latents | undefined;
  let latents: Latents | undefined;
  try {
    const { tokens, texts } = text;
    sayWhatWasCut('prompt', tokens.prompt, tokens.limit, context);
    sayWhatWasCut('negative prompt', tokens.negative, tokens.limit, context);
    context.recordBeside('encoded_prompt', { prompt: texts.prompt, negative_prompt: texts.negative, tokens });
    start = picture && (await model.encodeImage(picture, { ...size, batch_size, random }));
    latents = await model.sample(text, {
      ...input,
      ...size,
      batch_size,
      strength: input.strength ?? usualStrength(false),
      guidance_mode: 'serial',
      random,
      start,
      mask: undefined,
      ...watched(context),
    });
    progress('decode', 0, input.frames);
    if (context.wants('latents')) {
      await context.recordTensors('latents', { latents: { dims: [...latents.dims], data: await latents.read() } });
    }
    return { video: await film(input, size, latents, model, context) };
  } finally {
    for (const one of [text, start, latents]) {
      one?.dispose();
    }
  }
}

/** @throws StudioError `invalid_operation` for more frames than the checkpoint's motion modules have positions for */
function requireFrames({ frames }: Input, { summary: { name, mostFrames = Infinity } }: Model): void {
  if (frames > mostFrames) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes videos of at most ${mostFrames} frames, not ${frames}; the nearest is ${mostFrames}.`,
    );
  }
}
