/**
 * A video from words with Wan 2.1 or 2.2, which may begin with a picture. In: prompt, settings and perhaps the picture. Out: one video, whose frames are encoded as they are decoded. Cost: a run of
 * the transformer over all frames per step, twice with guidance.
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
  loras,
  prompt,
  steps,
  usualStrength,
  weights,
} from '../src/core/parameters.ts';
import { samplingEntries } from '../src/core/painting_parameters.ts';
import { videoEntries } from '../src/core/video_parameters.ts';

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
    frames: v.optional(
      v.pipe(
        v.number(framesProblem),
        v.check((frames) => frames === nearestFrames(frames), framesProblem),
        v.metadata({
          label: { en: 'Frames', de: 'Bilder' },
          slider: { min: 5, max: 121, step: PIECE },
          group: 'main',
        } satisfies FieldMetadata),
      ),
      81,
    ),
    ...videoEntries({ multiple: 16, rate: 16 }),
    steps: v.optional(steps(1, 150), 50),
    guidance_scale: v.optional(guidanceScale(), 5),
    ...samplingEntries(),
    image: v.optional(image('image')),
    background: v.optional(background()),
    loras: v.optional(loras()),
    weights: v.optional(weights(), 'auto'),
    phased: v.optional(v.boolean('phased must be true or false.')),
  }),
  v.check(
    ({ image: given, background: behind }) => given !== undefined || behind === undefined,
    'background counts only where an image is given; leave it out.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

export async function execute(input: Input, context: Context): Promise<Outputs> {
  const { progress } = context;
  const { takeLoraTags } = await import('../src/core/lora_tags.ts');
  const { words, loras: tagged } = takeLoraTags(input.prompt, input.steps);
  const model = await context.models.load(context.checkpoint, { loras: [...(input.loras ?? []), ...tagged] });
  requireBeginning(input, model);
  const picture = input.image === undefined ? undefined : await context.readImage(input.image, 'image');
  const size = pictureSize(input, picture, model, context);
  requireSize(size, model);
  const batch_size = input.frames;
  const { noiseSource } = await import('../src/core/noise_sources.ts');
  const random = noiseSource({ seed: input.seed, batch_size: 1 });

  progress('encode');
  const text = await model.encodeText({ ...input, prompt: words, batch_size });
  let begun: Latents | undefined;
  let latents: Latents | undefined;
  try {
    const { tokens, texts } = text;
    sayWhatWasCut('prompt', tokens.prompt, tokens.limit, context);
    sayWhatWasCut('negative prompt', tokens.negative, tokens.limit, context);
    await context.record('encoded_prompt', { prompt: texts.prompt, negative_prompt: texts.negative, tokens });
    begun = picture && (await model.encodeImage(picture, { ...size, batch_size, random }));
    latents = await model.sample(text, {
      ...input,
      shown: begun && [begun],
      ...size,
      batch_size,
      strength: usualStrength(false),
      guidance_mode: 'serial',
      random,
      start: undefined,
      mask: undefined,
      ...watched(context),
    });
    progress('decode', 0, input.frames);
    if (context.wants('latents')) {
      const [batch, channels, rows, width] = latents.dims;
      const frames = (input.frames - 1) / PIECE + 1;
      const dims = [batch, channels, frames, rows / frames, width];
      await context.recordTensors('latents', { latents: { dims, data: await latents.read() } });
    }
    return { video: await film(input, size, latents, model, context) };
  } finally {
    for (const one of [text, begun, latents]) {
      one?.dispose();
    }
  }
}

function nearestFrames(frames: number): number {
  return Math.min(MOST_FRAMES, Math.max(1, Math.round((frames - 1) / PIECE) * PIECE + 1));
}

function framesProblem({ input }: { input: unknown }): string {
  const rule = `frames must be 1 more than a multiple of ${PIECE}, from 1 to ${MOST_FRAMES}`;
  return typeof input === 'number' && Number.isFinite(input)
    ? `${rule}; the nearest is ${nearestFrames(input)}.`
    : `${rule}.`;
}

/** @throws StudioError `invalid_operation` for a picture that the checkpoint does not take, or lacks */
function requireBeginning({ image: given }: Input, { summary: { name, firstFrame } }: Model): void {
  if (given !== undefined && firstFrame === undefined) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes videos from words alone; leave image out, or choose a checkpoint that begins with a picture.`,
    );
  }
  if (given === undefined && firstFrame === 'must') {
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes videos that begin with a picture; give one as image, or choose a checkpoint for words alone.`,
    );
  }
}

/** @throws StudioError `invalid_operation` for sides that the checkpoint cannot cut into its patches */
function requireSize({ width, height }: { width: number; height: number }, { summary }: Model): void {
  const { name, multiple = 16 } = summary;
  if (width % multiple !== 0 || height % multiple !== 0) {
    const nearest = [width, height].map((side) => Math.max(1, Math.round(side / multiple)) * multiple).join('×');
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes videos whose sides are multiples of ${multiple} pixels, not ${width}×${height}; the nearest size is ${nearest}.`,
    );
  }
}
