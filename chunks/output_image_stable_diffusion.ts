/**
 * A picture from words with any checkpoint of the Stable Diffusion family: from scratch, from another picture, in the white part of a mask,
 * or around a picture. In: prompt and settings. Out: `batch_size` pictures. Cost: two UNet calls per step with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import { DEFAULT_GUIDANCE, GUIDANCE_METHODS, guidanceEntries, isWholeGuidance, NO_APG } from '../src/core/guidance.ts';
import { hiresEntries, isWholeHires, NO_HIRES } from '../src/core/hires.ts';
import { isWholeTiled, NO_TILED, tiledEntries } from '../src/core/tiled.ts';
import type { PixelImage } from '../src/core/media.ts';
import type {
  CheckpointSummary,
  Conditioning,
  ControlPicture,
  ImagePrompt,
  Latents,
  Model,
  SampleRequest,
} from '../src/core/model.ts';
import { givenPicture } from '../src/core/painting.ts';
import { hasItsStart, maskEntries, startProblem } from '../src/core/painting_parameters.ts';
import {
  background,
  CONTROL_IMAGES,
  PROMPT_IMAGES,
  batchSize,
  clipSkip,
  controlnets,
  drawnSeed,
  firstVae,
  follows,
  guidanceMode,
  guidanceRescale,
  guidanceScale,
  hasControlImages,
  hasMask,
  hasPromptImages,
  image,
  imageEncoder,
  images,
  ipAdapters,
  loras,
  noiseEntries,
  pixels,
  predictionType,
  prompt,
  promptSyntax,
  rescaleBetasZeroSnr,
  size,
  steps,
  strength,
  tileSize,
  usualStrength,
  vae,
  weights,
  wildcards,
} from '../src/core/parameters.ts';

export const meta = {
  id: 'output_image_stable_diffusion',
  media: 'image',
  operations: ['image_generation', 'image_transform', 'image_inpaint', 'image_outpaint'],
  needs: {
    gpu: true,
    checkpoint: [
      'StableDiffusionPipeline',
      'StableDiffusionImg2ImgPipeline',
      'StableDiffusionInpaintPipeline',
      'StableDiffusionXLPipeline',
      'StableDiffusionXLImg2ImgPipeline',
      'StableDiffusionXLInpaintPipeline',
      'LatentConsistencyModelPipeline',
    ],
    further: {
      hires_upscaler: ['RRDBNet', 'SRVGGNetCompact'],
      tiled_upscaler: ['RRDBNet', 'SRVGGNetCompact'],
    },
  },
  stages: [
    { id: 'encode', label: { en: 'Reading your words', de: 'Liest den Text' } },
    { id: 'sample', label: { en: 'Developing', de: 'Entwickelt' }, unit: 'steps' },
    { id: 'decode', label: { en: 'Fixing the picture', de: 'Fixiert das Bild' }, weight: 2 },
  ],
  outputs: { images: { medium: 'image', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

const id = (name: string) => v.string(`${name} must be the id of a ${name}.`);

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    prompt_syntax: v.optional(promptSyntax()),
    clip_skip: v.optional(clipSkip()),
    wildcards: v.optional(wildcards()),
    width: v.optional(size('width')),
    height: v.optional(size('height')),
    steps: v.optional(steps(1, 150), 25),
    guidance_scale: v.optional(guidanceScale(), 7.5),
    ...guidanceEntries(GUIDANCE_METHODS),
    guidance_rescale: v.optional(guidanceRescale()),
    guidance_mode: v.optional(guidanceMode(), 'auto'),
    sampler: v.optional(id('sampler')),
    schedule: v.optional(id('schedule')),
    follows: v.optional(follows()),
    prediction_type: v.optional(predictionType()),
    rescale_betas_zero_snr: v.optional(rescaleBetasZeroSnr()),
    seed: drawnSeed(),
    ...noiseEntries(),
    batch_size: v.optional(batchSize(), 1),
    strength: v.optional(strength()),
    ...hiresEntries(),
    ...tiledEntries(),
    image: v.optional(image('image')),
    ...maskEntries(),
    background: v.optional(background()),
    original_width: v.optional(pixels('original_width', 1)),
    original_height: v.optional(pixels('original_height', 1)),
    crop_top: v.optional(pixels('crop_top')),
    crop_left: v.optional(pixels('crop_left')),
    target_width: v.optional(pixels('target_width', 1)),
    target_height: v.optional(pixels('target_height', 1)),
    loras: v.optional(loras()),
    controlnets: v.optional(controlnets()),
    control_images: v.optional(images('control_images')),
    ip_adapters: v.optional(ipAdapters()),
    ip_adapter_images: v.optional(images('ip_adapter_images')),
    image_encoder: v.optional(imageEncoder()),
    vae: v.optional(vae()),
    first_vae: v.optional(firstVae()),
    weights: v.optional(weights(), 'auto'),
    tile_size: v.optional(tileSize()),
    phased: v.optional(v.boolean('phased must be true or false.')),
  }),
  v.check((input) => hasItsStart(input), startProblem),
  v.check((input) => hasControlImages(input), CONTROL_IMAGES),
  v.check((input) => hasPromptImages(input), PROMPT_IMAGES),
  v.check((input) => isWholeHires(input), NO_HIRES),
  v.check((input) => isWholeTiled(input), NO_TILED),
  v.check((input) => isWholeGuidance(input), NO_APG),
);

type Input = v.InferOutput<typeof parameters>;

/** Stable Diffusion XL's size conditioning. */
const SIZES = [
  'original_width',
  'original_height',
  'crop_top',
  'crop_left',
  'target_width',
  'target_height',
] as const satisfies (keyof Input)[];

export async function execute(input: Input, context: Context): Promise<Outputs> {
  const { models, progress, recordTensors, signal } = context;
  const { prompt, negative_prompt } = await wordsOf(input, context);
  const { takeLoraTags } = await import('../src/core/lora_tags.ts');
  const { words, loras: tagged } = takeLoraTags(prompt, input.steps);
  if (/<(?:lora|lyco):/i.test(negative_prompt)) {
    context.notice('A LoRA counts only in the prompt; in the negative prompt its tag was read as words.');
  }
  const model = await models.load(context.checkpoint, { ...input, loras: [...(input.loras ?? []), ...tagged] });
  requireUsed(input, model.summary);
  const { picture, mask, ground, overlay, ...framed } = await givenPicture(input, model.summary, context);
  if (input.guidance_scale <= 1) {
    sayWhatIsIdle(input, context);
  }
  const { width, height } =
    input.tiled_scale === undefined
      ? pictureSize({ ...input, ...framed }, overlay?.region ? undefined : picture, model.summary.defaults, context)
      : model.summary.defaults;
  const controls = await controlsOf(input, context);
  const imagePrompts = await imagePromptsOf(input, context);
  const { noiseSource } = await import('../src/core/noise_sources.ts');
  const random = noiseSource(input);

  progress('encode');
  const text = await model.encodeText({ ...input, prompt: words, negative_prompt });
  let start: Latents | undefined;
  let latents: Latents | undefined;
  try {
    sayWhatWasCut(text.tokens, context);
    context.recordBeside('encoded_prompt', {
      prompt: text.texts.prompt,
      negative_prompt: text.texts.negative,
      tokens: text.tokens,
    });
    const amount = input.strength ?? usualStrength(hasMask(input.operation));
    const request: SampleRequest = {
      ...input,
      width,
      height,
      strength: amount,
      random,
      start: undefined,
      mask,
      picture,
      controls,
      imagePrompts,
      previews: context.preview() !== null,
      signal,
      resume: context.resume,
      keep: context.keep,
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
    if (input.tiled_scale !== undefined && picture) {
      return { images: await inTiles(model, text, request, input, picture, context) };
    }
    // At full strength an inpainting checkpoint starts from noise alone; the reference then draws no noise for the picture.
    start =
      picture && !(model.summary.inpaints && amount === 1)
        ? await model.encodeImage(picture, { ...input, width, height, random, ground })
        : undefined;
    latents = await sampled(model, text, { ...request, start }, { ...input, prompt: words, negative_prompt }, models);

    progress('decode');
    if (context.wants('latents')) {
      await recordTensors('latents', { latents: { dims: [...latents.dims], data: await latents.read() } });
    }
    const canvas = context.preview();
    // Tiles and phases are for want of memory.
    if (canvas && input.first_vae !== undefined && input.tile_size === undefined && !input.phased) {
      (await model.firstLook?.(latents))?.(canvas);
    }
    const images = await model.decode(latents, {
      tile_size: input.tile_size,
      phased: input.phased,
      overlay,
      signal,
      onPart(done, parts) {
        progress('decode', done, parts);
      },
    });
    return { images };
  } finally {
    text.dispose();
    start?.dispose();
    latents?.dispose();
  }
}

/** Latents of the picture, in one pass, or in two at growing size. */
async function sampled(
  model: Model,
  text: Conditioning,
  request: SampleRequest,
  input: Input,
  models: Context['models'],
): Promise<Latents> {
  if ((input.hires_scale ?? 1) <= 1) {
    return model.sample(text, request);
  }
  const { paintTwice } = await import('../src/core/second_pass.ts');
  return paintTwice(model, text, request, input, (ref) => models.loadUpscaler(ref));
}

/** A large picture, painted tile by tile. */
async function inTiles(
  model: Model,
  text: Conditioning,
  request: SampleRequest,
  input: Input,
  picture: PixelImage,
  { models, progress, wants, recordTensors }: Context,
): Promise<PixelImage[]> {
  const { paintInTiles } = await import('../src/core/tiled_painting.ts');
  return paintInTiles(model, text, request, input, picture, (ref) => models.loadUpscaler(ref), {
    onEncoded(done, tiles) {
      progress('encode', done, tiles);
    },
    async onSampled(latents) {
      progress('decode');
      if (wants('latents')) {
        await recordTensors('latents', { latents });
      }
    },
    onDecoded(done, tiles) {
      progress('decode', done, tiles);
    },
  });
}

/** What the ControlNets see. */
async function controlsOf(
  { controlnets = [], control_images: given = [] }: Input,
  { readImage }: Context,
): Promise<ControlPicture[]> {
  return Promise.all(
    controlnets.map(async ({ controlnet: _, ...use }, place) => ({
      ...use,
      picture: await readImage(given[place], 'control_images'),
    })),
  );
}

/** What the IP-Adapters see. */
async function imagePromptsOf(
  { ip_adapters: adapters = [], ip_adapter_images: given = [] }: Input,
  { readImage }: Context,
): Promise<ImagePrompt[]> {
  const pictures = await Promise.all(given.map((one) => readImage(one, 'ip_adapter_images')));
  let next = 0;
  return adapters.map(({ weight, images: count }) => ({ weight, pictures: pictures.slice(next, (next += count)) }));
}

/** The prompts as they are read: choices are made by the seed, and problems reported. */
async function wordsOf(input: Input, { notice }: Context): Promise<{ prompt: string; negative_prompt: string }> {
  const { prompt_syntax: syntax = 'literal', seed, wildcards: lists } = input;
  if (syntax === 'literal') {
    return input;
  }
  // The page imports this file for its schema and needs none of the code that runs.
  const [{ drawChoices, hasChoices }, { promptProblems }] = await Promise.all([
    import('../src/core/choices.ts'),
    import('../src/core/prompt_problems.ts'),
  ]);
  const [prompt, negative_prompt] = [input.prompt, input.negative_prompt].map((text, turn) =>
    hasChoices(text, lists) ? drawChoices(text, seed, turn, lists) : text,
  );
  if (prompt !== input.prompt) {
    notice(`The seed drew this prompt: "${prompt}"`);
  }
  for (const { sentence } of [prompt, negative_prompt].flatMap((text) => promptProblems(text, syntax))) {
    notice(sentence);
  }
  return { prompt, negative_prompt };
}

/** @throws StudioError `invalid_operation` for anything this checkpoint cannot do or would ignore */
function requireUsed(input: Input, { name, inpaints, takesSizes }: CheckpointSummary): void {
  if (inpaints && input.soft_inpainting === true) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" sees the mask itself, in which grey is black or white; leave soft_inpainting out, or choose a checkpoint that is not made for inpainting.`,
    );
  }
  if (inpaints && !hasMask(input.operation)) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" only paints in the white part of a mask; give it a picture and a mask, or choose another checkpoint.`,
    );
  }
  const size = SIZES.find((one) => input[one] !== undefined);
  if (size && !takesSizes) {
    throw new StudioError(
      'invalid_operation',
      `${size} counts only for Stable Diffusion XL, and "${name}" is none; leave it out.`,
    );
  }
}

/** The requested size, else that of the picture to start from, else the one the checkpoint was trained at. */
function pictureSize(
  input: Input,
  picture: PixelImage | undefined,
  usual: { width: number; height: number },
  { notice }: Context,
): { width: number; height: number } {
  if (!picture) {
    return { width: input.width ?? usual.width, height: input.height ?? usual.height };
  }
  const width = input.width ?? Math.floor(picture.width / 8) * 8;
  const height = input.height ?? Math.floor(picture.height / 8) * 8;
  if (width < 16 || height < 16) {
    throw new StudioError(
      'invalid_operation',
      `The picture to start from is only ${picture.width}×${picture.height} pixels; give a larger one, or width and height.`,
    );
  }
  if (width !== picture.width || height !== picture.height) {
    notice(`The picture of ${picture.width}×${picture.height} pixels was scaled to ${width}×${height}.`);
  }
  return { width, height };
}

/** Of guidance, where there is none. */
function sayWhatIsIdle(
  { guidance_rescale: amount = 0, guidance_method: method = DEFAULT_GUIDANCE.guidance_method }: Input,
  { notice }: Context,
): void {
  if (amount > 0) {
    notice('guidance_rescale does something only with a guidance_scale above 1, so it changed nothing.');
  }
  if (method !== DEFAULT_GUIDANCE.guidance_method) {
    notice('guidance_method does something only with a guidance_scale above 1, so it changed nothing.');
  }
}

function sayWhatWasCut(tokens: { prompt: number; negative: number; limit: number }, { notice }: Context): void {
  for (const [name, used] of [
    ['prompt', tokens.prompt],
    ['negative prompt', tokens.negative],
  ] as const) {
    if (used > tokens.limit) {
      notice(
        `The ${name} has ${used} tokens, and this checkpoint reads ${tokens.limit} (begin and end included): the rest was left out.`,
      );
    }
  }
}
