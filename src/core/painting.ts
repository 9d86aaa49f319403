/** What chunks that paint with a checkpoint share: from words, and possibly a picture, to pictures. */
import { passedLimits } from './checkpoint_limits.ts';
import type { Context, StageDeclaration } from './chunk.ts';
import { StudioError } from './errors.ts';
import type { GuidanceRequest } from './guidance.ts';
import type { LoraUse } from './loras.ts';
import type { PixelImage } from './media.ts';
import type { MaskRequest } from './mask_parameters.ts';
import type { CheckpointSummary, GroundRequest, Latents, Model, OverlayRequest, SampleRequest } from './model.ts';
import type { ModelSamplingRequest } from './model_sampling.ts';
import type { NoiseRequest } from './noise.ts';
import type { OutpaintRequest } from './outpainting_parameters.ts';
import { hasMask, usualStrength, type ImageSource } from './parameters.ts';

export const PAINTING_STAGES = [
  { id: 'encode', label: { en: 'Reading your words', de: 'Liest deine Worte' } },
  { id: 'sample', label: { en: 'Developing', de: 'Entwickelt' }, unit: 'steps' },
  { id: 'decode', label: { en: 'Fixing the picture', de: 'Fixiert das Bild' }, weight: 2 },
] as const satisfies readonly StageDeclaration[];

/** The same for videos, whose frames are written one after another. */
export const FILMING_STAGES = [
  PAINTING_STAGES[0],
  PAINTING_STAGES[1],
  { id: 'decode', label: { en: 'Writing the video', de: 'Schreibt das Video' }, unit: 'frames', weight: 4 },
] as const satisfies readonly StageDeclaration[];

const NO_GUIDANCE =
  'The kind of guidance counts only where guidance leads away from a negative prompt, so it changed nothing.';

/** The parameters of a painting, already validated by the chunk. */
export interface Painting extends NoiseRequest, OutpaintRequest, MaskRequest, GuidanceRequest, ModelSamplingRequest {
  /** Its kind. */
  operation: string;
  prompt: string;
  negative_prompt: string;
  width?: number | undefined;
  height?: number | undefined;
  steps: number;
  guidance_scale: number;
  sampler?: string | undefined;
  schedule?: string | undefined;
  image?: ImageSource | undefined;
  mask_image?: ImageSource | undefined;
  overlay_inpaint?: boolean | undefined;
  /** Reference pictures, in order. */
  images?: ImageSource[] | undefined;
  strength?: number | undefined;
  background?: string | undefined;
  loras?: LoraUse[] | undefined;
  tile_size?: number | undefined;
  phased?: boolean | undefined;
  /** See `SampleRequest`. */
  skip_guidance_layers?: number[] | undefined;
  skip_layer_guidance_scale?: number | undefined;
  skip_layer_guidance_start?: number | undefined;
  skip_layer_guidance_stop?: number | undefined;
}

/**
 * @param sizeFor the size for reference pictures, where the operation names none; absent, or undefined = the first one's
 * @returns `batch_size` pictures
 */
export async function paint(
  input: Painting,
  context: Context,
  sizeFor?: (given: readonly PixelImage[], model: Model) => { width: number; height: number } | undefined,
): Promise<PixelImage[]> {
  const { progress, signal } = context;
  const { takeLoraTags } = await import('./lora_tags.ts');
  const { words, loras: tagged } = takeLoraTags(input.prompt, input.steps);
  const model = await context.models.load(context.checkpoint, { loras: [...(input.loras ?? []), ...tagged] });
  sayWhatIsIgnored(input, model, context);
  const { picture, mask, ground, overlay, ...framed } = await givenPicture(input, model.summary, context);
  const given: PixelImage[] = [];
  for (const one of input.images ?? []) {
    given.push(await context.readImage(one, 'images'));
  }
  const usual = given.length > 0 ? sizeFor?.(given, model) : undefined;
  const seen = overlay?.region ? undefined : (picture ?? given.at(0));
  const size = pictureSize({ ...usual, ...input, ...framed }, seen, model, context);
  requireRoom(size, model);
  const { noiseSource } = await import('./noise_sources.ts');
  const random = noiseSource(input);

  progress('encode');
  const text = await model.encodeText({ ...input, prompt: words, images: given });
  let start: Latents | undefined;
  let latents: Latents | undefined;
  const shown: Latents[] = [];
  try {
    const { tokens, texts } = text;
    if (texts.negative === null && input.guidance_method !== undefined) {
      context.notice(NO_GUIDANCE);
    }
    sayWhatWasCut('prompt', tokens.prompt, tokens.limit, context);
    sayWhatWasCut('negative prompt', tokens.negative, tokens.limit, context);
    text.notices?.forEach(context.notice);
    await context.record('encoded_prompt', { prompt: texts.prompt, negative_prompt: texts.negative, tokens });
    const { batch_size, tile_size } = input;
    start = picture && (await model.encodeImage(picture, { ...size, batch_size, tile_size, random, ground }));
    for (const one of given) {
      shown.push(await showTo(model, one, given.length, size));
    }
    latents = await model.sample(text, {
      ...input,
      ...size,
      shown,
      strength: input.strength ?? usualStrength(hasMask(input.operation)),
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
      phased: input.phased,
      overlay,
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

/** The picture to start from. */
export interface GivenPicture {
  /** As the network is to see them. */
  picture?: PixelImage;
  mask?: PixelImage;
  ground?: GroundRequest | undefined;
  /** What is laid over the results. */
  overlay?: OverlayRequest | undefined;
  /** In pixels, if nothing but the picture's new frame gives them. */
  width?: number;
  height?: number;
}

/**
 * Reads the picture to start from and its mask, and puts the picture into its new frame, or takes out what is masked, where the operation
 * asks for that.
 * @param summary of the checkpoint: the frame's sides must be multiples of its own, and a part is painted at its usual size
 * @throws StudioError `invalid_operation` for a frame of another size, and for a mask of another shape
 */
export async function givenPicture(
  input: Pick<Painting, 'operation' | 'image' | 'mask_image' | 'overlay_inpaint' | 'width' | 'height' | 'background'> &
    OutpaintRequest &
    MaskRequest &
    NoiseRequest,
  { multiple = 8, defaults }: Pick<CheckpointSummary, 'multiple' | 'defaults'>,
  { readImage, notice }: Pick<Context, 'readImage' | 'notice'>,
): Promise<GivenPicture> {
  if (input.image === undefined) {
    return {};
  }
  const picture = await readImage(input.image, 'image');
  const laysOver = input.overlay_inpaint !== false;
  if (input.operation !== 'image_outpaint') {
    if (input.mask_image === undefined) {
      return { picture };
    }
    const { masked } = await import('./inpainting.ts');
    return masked(picture, await readImage(input.mask_image, 'mask_image'), input, defaults);
  }
  const { framed, groundOf } = await import('./outpainting.ts');
  const frame = framed(picture, input, multiple);
  const { width, height } = frame.picture;
  if ((input.width ?? width) !== width || (input.height ?? height) !== height) {
    notice(`The picture with its new ground has ${width}×${height} pixels; width and height do not count here.`);
  }
  const overlay = laysOver ? frame : undefined;
  return { ...frame, ground: groundOf(input, frame.mask, input), overlay, width, height };
}

/** @throws StudioError `invalid_operation` for a request that this checkpoint cannot fulfil */
function requireRoom(size: { width: number; height: number }, { summary }: Model) {
  const [sentence] = passedLimits(summary, size);
  if (sentence !== undefined) {
    throw new StudioError('invalid_operation', sentence);
  }
}

function showTo(
  model: Model,
  picture: PixelImage,
  together: number,
  size: { width: number; height: number },
): Promise<Latents> {
  if (!model.encodeShown) {
    throw new StudioError(
      'invalid_operation',
      `"${model.summary.name}" cannot be shown pictures; leave images out, or choose another checkpoint.`,
    );
  }
  return model.encodeShown(picture, together, size);
}

function sayWhatIsIgnored(
  { guidance_scale: scale, negative_prompt: negative }: Painting,
  { summary }: Model,
  { notice }: Context,
): void {
  if (/<(?:lora|lyco):/i.test(negative)) {
    notice('A LoRA counts only in the prompt; in the negative prompt its tag was read as words.');
  }
  if (scale > 1 && summary.ignores?.includes('guidance_scale')) {
    notice(`"${summary.name}" was taught to do without guidance, so a guidance_scale of ${scale} changed nothing.`);
  }
  if (negative.trim() !== '' && summary.ignores?.includes('negative_prompt')) {
    notice(`"${summary.name}" reads no negative prompt, so it changed nothing.`);
  }
}

/** How sampling reports, shows previews, is cancelled and resumes. */
export function watched(
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

/** The most pixels when only a given picture decides the size. */
const LARGEST = 1024 * 1024;

/** The requested size, else the given picture's, else the one the checkpoint was trained at. */
export function pictureSize(
  input: Pick<Painting, 'width' | 'height' | 'image'>,
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

export function sayWhatWasCut(name: string, used: number, limit: number, { notice }: Pick<Context, 'notice'>): void {
  if (used > limit) {
    notice(
      `The ${name} has ${used} tokens, and this checkpoint reads ${limit} (begin and end included): the rest was left out.`,
    );
  }
}
