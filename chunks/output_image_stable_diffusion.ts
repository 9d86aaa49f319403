/**
 * A picture from words with any checkpoint of the Stable Diffusion family: from nothing, from another picture, or in the
 * white part of a mask. In: prompt and settings. Out: `batch_size` pictures. Cost: two UNet calls per step with guidance.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import { takeLoraTags } from '../src/core/loras.ts';
import type { PixelImage } from '../src/core/media.ts';
import type { CheckpointSummary, Latents } from '../src/core/model.ts';
import {
  background,
  batchSize,
  follows,
  guidanceScale,
  image,
  loras,
  overlayInpaint,
  pixels,
  predictionType,
  prompt,
  rescaleBetasZeroSnr,
  seed,
  size,
  steps,
  strength,
  tileSize,
  usualStrength,
  weights,
} from '../src/core/parameters.ts';
import { TorchGenerator } from '../src/core/random.ts';

export const meta = {
  id: 'output_image_stable_diffusion',
  media: 'image',
  operations: ['image_generation', 'image_transform', 'image_inpaint'],
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
    width: v.optional(size('width')),
    height: v.optional(size('height')),
    steps: v.optional(steps(1, 150), 25),
    guidance_scale: v.optional(guidanceScale(), 7.5),
    guidance_mode: v.optional(
      v.picklist(['auto', 'batched', 'serial'], 'guidance_mode must be auto, batched or serial.'),
      'auto',
    ),
    sampler: v.optional(id('sampler')),
    schedule: v.optional(id('schedule')),
    follows: v.optional(follows()),
    prediction_type: v.optional(predictionType()),
    rescale_betas_zero_snr: v.optional(rescaleBetasZeroSnr()),
    seed: v.optional(seed(), () => String(crypto.getRandomValues(new Uint32Array(1))[0])),
    batch_size: v.optional(batchSize(), 1),
    strength: v.optional(strength()),
    image: v.optional(image('image')),
    mask_image: v.optional(image('mask_image')),
    background: v.optional(background()),
    overlay_inpaint: v.optional(overlayInpaint()),
    original_width: v.optional(pixels('original_width', 1)),
    original_height: v.optional(pixels('original_height', 1)),
    crop_top: v.optional(pixels('crop_top')),
    crop_left: v.optional(pixels('crop_left')),
    target_width: v.optional(pixels('target_width', 1)),
    target_height: v.optional(pixels('target_height', 1)),
    loras: v.optional(loras()),
    weights: v.optional(weights(), 'auto'),
    tile_size: v.optional(tileSize()),
    phased: v.optional(v.boolean('phased must be true or false.')),
  }),
  v.check(
    ({ operation, image }) => operation === 'image_generation' || image !== undefined,
    'image is missing: image_transform and image_inpaint start from a picture.',
  ),
  v.check(
    ({ operation, image }) => operation !== 'image_generation' || image === undefined,
    'image is given, but image_generation starts from nothing; use image_transform.',
  ),
  v.check(
    ({ operation, mask_image }) => (operation === 'image_inpaint') === (mask_image !== undefined),
    'mask_image is needed by image_inpaint and only by it: white is changed, black is kept.',
  ),
  v.check(
    ({ image, background }) => image !== undefined || background === undefined,
    'background counts only where an image is given; leave it out.',
  ),
  v.check(
    ({ operation, overlay_inpaint }) => operation === 'image_inpaint' || overlay_inpaint === undefined,
    'overlay_inpaint counts only for image_inpaint; leave it out.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

/** What only Stable Diffusion XL is told. */
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
  const { words, loras: tagged } = takeLoraTags(input.prompt);
  if (/<(?:lora|lyco):/i.test(input.negative_prompt)) {
    context.notice('A LoRA counts only in the prompt; in the negative prompt its tag was read as words.');
  }
  const model = await models.load(context.checkpoint, [...(input.loras ?? []), ...tagged]);
  requireUsed(input, model.summary);
  const picture = input.image === undefined ? undefined : await context.readImage(input.image, 'image');
  const mask = input.mask_image === undefined ? undefined : await context.readImage(input.mask_image, 'mask_image');
  const { width, height } = pictureSize(input, picture, model.summary.defaults, context);
  const random = new TorchGenerator(input.seed);

  progress('encode');
  const text = await model.encodeText({ ...input, prompt: words });
  let start: Latents | undefined;
  let latents: Latents | undefined;
  try {
    sayWhatWasCut(text.tokens, context);
    await context.record('encoded_prompt', {
      prompt: text.texts.prompt,
      negative_prompt: text.texts.negative,
      tokens: text.tokens,
    });
    const amount = input.strength ?? usualStrength(mask !== undefined);
    // A checkpoint that is shown what stays paints something wholly new from noise alone; the reference draws none for the picture then.
    start =
      picture && !(model.summary.inpaints && amount === 1)
        ? await model.encodeImage(picture, { width, height, batch_size: input.batch_size, random })
        : undefined;

    latents = await model.sample(text, {
      ...input,
      width,
      height,
      strength: amount,
      random,
      start,
      mask,
      picture,
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
    });

    progress('decode');
    if (context.wants('latents')) {
      await recordTensors('latents', { latents: { dims: [...latents.dims], data: await latents.read() } });
    }
    const images = await model.decode(latents, {
      tile_size: input.tile_size,
      phased: input.phased,
      overlay: picture && mask && input.overlay_inpaint !== false ? { picture, mask } : undefined,
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

/** @throws StudioError `invalid_operation` for what this checkpoint cannot do, or would pass over */
function requireUsed(input: Input, { name, inpaints, takesSizes }: CheckpointSummary): void {
  if (inpaints && input.operation !== 'image_inpaint') {
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

/** What is asked for, else the size of the picture to start from, else what the checkpoint was trained at. */
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
