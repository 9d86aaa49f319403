/** What chunks that paint with a checkpoint share: the way from words, and perhaps a picture, to pictures. */
import type { Context, StageDeclaration } from './chunk.ts';
import { StudioError } from './errors.ts';
import type { PixelImage } from './media.ts';
import type { Latents, Model, SampleRequest } from './model.ts';
import { usualStrength, type ImageSource } from './parameters.ts';
import { TorchGenerator } from './random.ts';

export const PAINTING_STAGES = [
  { id: 'encode', label: { en: 'Reading your words', de: 'Liest deine Worte' } },
  { id: 'sample', label: { en: 'Developing', de: 'Entwickelt' }, unit: 'steps' },
  { id: 'decode', label: { en: 'Fixing the picture', de: 'Fixiert das Bild' }, weight: 2 },
] as const satisfies readonly StageDeclaration[];

/** The parameters of a painting, as chunks check them. */
export interface Painting {
  prompt: string;
  negative_prompt: string;
  width?: number | undefined;
  height?: number | undefined;
  steps: number;
  guidance_scale: number;
  sampler?: string | undefined;
  schedule?: string | undefined;
  seed: string;
  batch_size: number;
  image?: ImageSource | undefined;
  mask_image?: ImageSource | undefined;
  overlay_inpaint?: boolean | undefined;
  /** Pictures that the checkpoint is shown, in order. */
  images?: ImageSource[] | undefined;
  strength?: number | undefined;
  tile_size?: number | undefined;
}

/** @returns `batch_size` pictures */
export async function paint(input: Painting, context: Context): Promise<PixelImage[]> {
  const { progress, signal } = context;
  const model = await context.models.load(context.checkpoint, []);
  sayWhatIsIgnored(input, model, context);
  const picture = input.image === undefined ? undefined : await context.readImage(input.image, 'image');
  const mask = input.mask_image === undefined ? undefined : await context.readImage(input.mask_image, 'mask_image');
  const given: PixelImage[] = [];
  for (const one of input.images ?? []) {
    given.push(await context.readImage(one, 'images'));
  }
  const size = pictureSize(input, picture ?? given.at(0), model, context);
  const random = new TorchGenerator(input.seed);

  progress('encode');
  const text = await model.encodeText(input);
  let start: Latents | undefined;
  let latents: Latents | undefined;
  const shown: Latents[] = [];
  try {
    const { tokens, texts } = text;
    sayWhatWasCut('prompt', tokens.prompt, tokens.limit, context);
    sayWhatWasCut('negative prompt', tokens.negative, tokens.limit, context);
    await context.record('encoded_prompt', { prompt: texts.prompt, negative_prompt: texts.negative, tokens });
    start = picture && (await model.encodeImage(picture, { ...size, batch_size: input.batch_size, random }));
    for (const one of given) {
      shown.push(await showTo(model, one));
    }
    latents = await model.sample(text, {
      ...input,
      ...size,
      shown,
      strength: input.strength ?? usualStrength(mask !== undefined),
      guidance_mode: 'auto',
      random,
      start,
      mask,
      ...watched(context),
    });
    progress('decode');
    if (context.wants('latents')) {
      await context.recordTensors('latents', { latents: { dims: [...latents.dims], data: await latents.read() } });
    }
    return await model.decode(latents, {
      tile_size: input.tile_size,
      overlay: picture && mask && input.overlay_inpaint !== false ? { picture, mask } : undefined,
      signal,
      onPart(done, parts) {
        progress('decode', done, parts);
      },
    });
  } finally {
    for (const one of [text, start, latents, ...shown]) {
      one?.dispose();
    }
  }
}

function showTo(model: Model, picture: PixelImage): Promise<Latents> {
  if (!model.encodeShown) {
    throw new StudioError(
      'invalid_operation',
      `"${model.summary.name}" cannot be shown pictures; leave images out, or choose another checkpoint.`,
    );
  }
  return model.encodeShown(picture);
}

function sayWhatIsIgnored({ guidance_scale: scale }: Painting, { summary }: Model, { notice }: Context): void {
  if (scale > 1 && summary.ignores?.includes('guidance_scale')) {
    notice(`"${summary.name}" was taught to do without guidance, so a guidance_scale of ${scale} changed nothing.`);
  }
}

/** How sampling is told of, shown, broken off and taken up again. */
function watched(
  context: Context,
): Pick<SampleRequest, 'previews' | 'signal' | 'resume' | 'keep' | 'onStart' | 'onStep'> {
  const { progress, signal, resume, keep } = context;
  return {
    previews: context.preview() !== null,
    signal,
    resume,
    keep,
    onStart(steps, done) {
      progress('sample', done, steps);
    },
    onStep({ step, steps, preview }) {
      progress('sample', step, steps);
      const canvas = context.preview();
      if (canvas && preview) {
        preview(canvas);
      }
    },
  };
}

/** The most pixels that follow from a given picture alone. */
const LARGEST = 1024 * 1024;

/** What is asked for, else the size of the given picture, else what the checkpoint was trained at. */
function pictureSize(
  input: Painting,
  picture: PixelImage | undefined,
  { summary: { defaults, multiple = 8 } }: Model,
  { notice }: Context,
): { width: number; height: number } {
  if (!picture) {
    return { width: input.width ?? defaults.width, height: input.height ?? defaults.height };
  }
  const scale = Math.min(1, Math.sqrt(LARGEST / (picture.width * picture.height)));
  const whole = (side: number) => Math.floor(Math.trunc(side * scale) / multiple) * multiple;
  const width = input.width ?? whole(picture.width);
  const height = input.height ?? whole(picture.height);
  if (width < 16 || height < 16) {
    throw new StudioError(
      'invalid_operation',
      `The picture to start from is only ${picture.width}×${picture.height} pixels; give a larger one, or width and height.`,
    );
  }
  if (input.image !== undefined && (width !== picture.width || height !== picture.height)) {
    notice(`The picture of ${picture.width}×${picture.height} pixels was scaled to ${width}×${height}.`);
  }
  return { width, height };
}

function sayWhatWasCut(name: string, used: number, limit: number, { notice }: Context): void {
  if (used > limit) {
    notice(
      `The ${name} has ${used} tokens, and this checkpoint reads ${limit} (begin and end included): the rest was left out.`,
    );
  }
}
