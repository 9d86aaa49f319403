/**
 * Parameters shared by image chunks, as valibot schemas whose messages are whole sentences.
 * A chunk composes its `parameters` from these and adds its own.
 */
import * as v from 'valibot';
import { ADDITIONS, type Addition } from './additions.ts';
import type { FieldMetadata } from './field.ts';
import { CONTROL_KINDS, DETECTORS } from './controlnets.ts';
import { GREATEST_LORA_WEIGHT, areBlocks } from './loras.ts';
import { PROMPT_SYNTAXES, WEIGHT_VARIANTS } from './model.ts';
import { NOISES, type NoiseRequest } from './noise.ts';

/** Browsers and Node have it; this layer is compiled with the language's own types only. */
const { crypto } = globalThis as unknown as { crypto: { getRandomValues(into: Uint32Array): Uint32Array } };

/** Seeds are decimal strings because they reach 2^64 − 1, beyond what a JSON number holds. */
const SEED = decimalUpTo(String(2n ** 64n - 1n));

export const integer = (name: string, min: number, max: number) => {
  const message = `${name} must be a whole number from ${min} to ${max}.`;
  return v.pipe(v.number(message), v.integer(message), v.minValue(min, message), v.maxValue(max, message));
};

export const real = (name: string, min: number, max: number) => {
  const message = `${name} must be a number from ${min} to ${max}.`;
  return v.pipe(v.number(message), v.finite(message), v.minValue(min, message), v.maxValue(max, message));
};

export const prompt = (name: string) => v.string(`${name} must be text (it may be empty).`);

export const steps = (min = 1, max = 150) => integer('steps', min, max);

export const batchSize = (max = 16) => integer('batch_size', 1, max);

export const guidanceScale = () => real('guidance_scale', 0, 100);

/** How far the levels of a flow are moved towards the noise, in place of what its checkpoint says; 1 = not at all. */
export const flowShift = () =>
  v.pipe(real('shift', 0.1, 100), v.metadata({ words: 'flow_shift' } satisfies FieldMetadata));

/** How prompts are read; absent = literally. */
export const promptSyntax = () =>
  v.picklist(PROMPT_SYNTAXES, 'prompt_syntax must be literal, automatic1111 or comfyui.');

/** The text encoder's layer to read, counted from the last, 1, as in AUTOMATIC1111 and ComfyUI. */
export const clipSkip = () => integer('clip_skip', 1, 24);

const MOST_LINES = 10_000;

/** Wildcard lists by name; `__name__` in a prompt picks one of its lines. */
export const wildcards = () =>
  v.record(
    v.string(),
    v.pipe(
      v.array(v.string('Each line of wildcards must be text.'), 'wildcards must be lists of text by name.'),
      v.maxLength(MOST_LINES, `A list of wildcards has at most ${MOST_LINES} lines.`),
    ),
    'wildcards must be lists of text by name, such as {"colour": ["red", "blue"]}.',
  );

/** How far to rescale guidance to the standard deviation of the conditional prediction; diffusers' name. */
export const guidanceRescale = () => real('guidance_rescale', 0, 1);

/** The share of the noise schedule to run on a given picture: 1 repaints it, 0.1 barely touches it. */
export const strength = (name = 'strength') => {
  const message = `${name} must be a number above 0 and up to 1.`;
  return v.pipe(v.number(message), v.gtValue(0, message), v.maxValue(1, message));
};

/** Whether an operation of this kind paints anew in a part of a picture only. */
export function hasMask(operation: string): boolean {
  return operation === 'image_inpaint' || operation === 'image_outpaint';
}

/** diffusers' defaults, for inpainting and for a picture without a mask. */
export function usualStrength(hasMask: boolean): number {
  return hasMask ? 1 : 0.8;
}

/** An addition of the library, by its ref or its name; the parameter is called as its kind. */
const stored = (kind: Addition, name: string = kind) => {
  const message = `${name} must be the ref or the name of a stored ${ADDITIONS[kind]}.`;
  return v.pipe(v.string(message), v.nonEmpty(message));
};

const MOST_LORAS = 16;

/** Scales a LoRA's changes: 1 = as trained, 0 = none, negative = the opposite. */
export const loraWeight = (name = 'weight') => real(name, -GREATEST_LORA_WEIGHT, GREATEST_LORA_WEIGHT);

/** Factors of a LoRA's changes by block. See `BLOCK_FORMS`. */
export const loraBlocks = () => {
  const message = `blocks must be 12, 17, 20 or 26 numbers from -${GREATEST_LORA_WEIGHT} to ${GREATEST_LORA_WEIGHT}.`;
  return v.pipe(
    v.array(v.number(message), message),
    v.check((blocks) => areBlocks(blocks), message),
  );
};

/** LoRAs from the library, by ref or name, all applied together. See `LoraUse`. */
export const loras = () =>
  v.pipe(
    v.array(
      v.pipe(
        v.strictObject({
          lora: stored('lora'),
          weight: v.optional(loraWeight(), 1),
          text_weight: v.optional(loraWeight('text_weight')),
          blocks: v.optional(loraBlocks()),
          start: v.optional(share('start')),
          end: v.optional(share('end')),
        }),
        v.check(({ start = 0, end = 1 }) => start < end, 'The start of a LoRA must lie before its end.'),
      ),
      'loras must be a list of LoRAs, such as [{"lora": "paper", "weight": 0.8}].',
    ),
    v.maxLength(MOST_LORAS, `loras must be at most ${MOST_LORAS}.`),
  );

const MOST_CONTROLNETS = 8;

/** Factor of what a ControlNet or an IP-Adapter adds: 1 as it was trained. */
export const addedWeight = () => real('weight', 0, 4);

/** A share of the steps, from 0, the first, to 1, the end of the last. */
export const share = (name: string) => real(name, 0, 1);

/** ControlNets of the library by ref or name, which lead the picture together. See `ControlNetUse`. */
export const controlnets = () => {
  return v.pipe(
    v.array(
      v.pipe(
        v.strictObject({
          controlnet: stored('controlnet'),
          weight: v.optional(addedWeight(), 1),
          start: v.optional(share('start'), 0),
          end: v.optional(share('end'), 1),
          detector: v.optional(v.picklist(DETECTORS, 'detector must be none, canny, lineart or depth.'), 'none'),
          guess: v.optional(v.boolean('guess must be true or false.')),
          kind: v.optional(v.picklist(CONTROL_KINDS, `kind must be one of ${CONTROL_KINDS.join(', ')}.`)),
        }),
        v.check(({ start, end }) => start < end, 'The start of a ControlNet must lie before its end.'),
      ),
      'controlnets must be a list of ControlNets, such as [{"controlnet": "canny", "weight": 0.8}].',
    ),
    v.maxLength(MOST_CONTROLNETS, `controlnets must be at most ${MOST_CONTROLNETS}.`),
  );
};

/** Whether each ControlNet has its control picture, in the same order. */
export function hasControlImages(input: {
  controlnets?: unknown[] | undefined;
  control_images?: unknown[] | undefined;
}) {
  return (input.controlnets?.length ?? 0) === (input.control_images?.length ?? 0);
}

export const CONTROL_IMAGES =
  'control_images must be as many pictures as there are controlnets, in the same order; give each ControlNet its picture.';

const MOST_IP_ADAPTERS = 8;
/** Of one IP-Adapter. */
export const MOST_PROMPT_IMAGES = 8;

/** IP-Adapters of the library by ref or name, through which pictures are prompts. See `IpAdapterUse`. */
export const ipAdapters = () => {
  return v.pipe(
    v.array(
      v.strictObject({
        ip_adapter: stored('ip_adapter'),
        weight: v.optional(addedWeight(), 1),
        images: v.optional(integer('images', 1, MOST_PROMPT_IMAGES), 1),
      }),
      'ip_adapters must be a list of IP-Adapters, such as [{"ip_adapter": "ip-adapter_sd15", "weight": 0.6}].',
    ),
    v.maxLength(MOST_IP_ADAPTERS, `ip_adapters must be at most ${MOST_IP_ADAPTERS}.`),
  );
};

/** Whether the IP-Adapters have as many pictures together as they say. */
export function hasPromptImages(input: {
  ip_adapters?: { images: number }[] | undefined;
  ip_adapter_images?: unknown[] | undefined;
}) {
  const wanted = (input.ip_adapters ?? []).reduce((sum, { images }) => sum + images, 0);
  return wanted === (input.ip_adapter_images?.length ?? 0);
}

export const PROMPT_IMAGES =
  'ip_adapter_images must be as many pictures as the ip_adapters say together, in the same order; give each IP-Adapter its pictures.';

/** What sees the pictures for IP-Adapters; see `UsedAdditions`. */
export const imageEncoder = () => stored('image_encoder');

/** The autoencoder in place of the checkpoint's own; see `UsedAdditions`. */
export const vae = () => stored('vae');

/** An autoencoder, such as TAESD, that shows the picture while the other one still decodes it; what is recorded is the other one's. */
export const firstVae = () => stored('vae', 'first_vae');

/**
 * Whether to paste the original over the result where the mask is black (the default), like AUTOMATIC1111's option of that name, so that
 * it stays the same to the bit. False keeps the checkpoint's own picture, all of which went through the autoencoder.
 */
export const overlayInpaint = () => v.boolean('overlay_inpaint must be true or false.');

/** The colour behind the transparent parts of a given picture, as "#rrggbb". White by default, as in AUTOMATIC1111. */
export const background = () => {
  const message = 'background must be a colour written as "#rrggbb", such as "#ffffff" for white.';
  return v.pipe(v.string(message), v.regex(/^#[0-9a-fA-F]{6}$/, message));
};

/** Whether it is a colour that {@link background} accepts. */
export function isColour(value: unknown): value is string {
  return v.is(background(), value);
}

/** A side in pixels; the networks work on blocks of 8×8 pixels, or as many as `multiple` says. */
export const size = (name: string, min = 16, max = 4096, multiple = 8) => {
  const message = `${name} must be a multiple of ${multiple} from ${min} to ${max} pixels.`;
  return v.pipe(
    v.number(message),
    v.integer(message),
    v.minValue(min, message),
    v.maxValue(max, message),
    v.multipleOf(multiple, message),
  );
};

/** Pixels of a picture that need not be one of ours: its size, or the offset of its crop. */
export const pixels = (name: string, min = 0) => integer(name, min, 16384);

/** Whether networks take turns on the device. The planner chooses it where they do not fit together, so no form asks. */
export const phased = () =>
  v.pipe(v.boolean('phased must be true or false.'), v.metadata({ group: 'none' } satisfies FieldMetadata));

/** Whether the network sees prompt and negative prompt at once, which is quicker, or one after the other, which takes less memory. */
export const guidanceMode = () =>
  v.picklist(['auto', 'batched', 'serial'], 'guidance_mode must be auto, batched or serial.');

/** Side of the tiles for decoding, in pixels; smaller tiles need less memory but show seams sooner. */
export const tileSize = () => {
  const message = 'tile_size must be a multiple of 32 from 64 to 2048 pixels.';
  return v.pipe(
    v.number(message),
    v.integer(message),
    v.minValue(64, message),
    v.maxValue(2048, message),
    v.multipleOf(32, message),
  );
};

const WEIGHT_CHOICES = {
  auto: { en: 'What fits', de: 'Was passt' },
  full: { en: 'Whole', de: 'Ganz' },
  q8: { en: '8 bits', de: '8 Bit' },
  q4: { en: '4 bits', de: '4 Bit' },
};

/** How to run the weights; `auto` takes the best variant that fits. */
export const weights = () =>
  v.pipe(
    v.picklist(['auto', ...WEIGHT_VARIANTS], 'weights must be auto, full, q8 or q4.'),
    v.metadata({ choices: WEIGHT_CHOICES } satisfies FieldMetadata),
  );

/** What the network was trained to predict, for a checkpoint that does not say, or is wrong. */
export const predictionType = () =>
  v.picklist(['epsilon', 'v_prediction'], 'prediction_type must be epsilon or v_prediction.');

/** Whose formulas a sampler follows where tools differ; absent = the checkpoint's own scheduler class if it knows the sampler. */
export const CONVENTIONS = ['diffusers', 'comfyui'] as const;

export const follows = () => v.picklist(CONVENTIONS, 'follows must be diffusers or comfyui.');

export const noise = () => v.picklist(NOISES, 'noise must be torch_cpu, nv, a1111_cpu or comfyui.');

/** Whose random numbers to use, and how to vary them; see `NoiseRequest`. */
export const noiseEntries = () => ({
  noise: v.optional(noise()),
  variation_seed: v.optional(seed('variation_seed')),
  variation_strength: v.optional(variationStrength()),
  eta_noise_seed_delta: v.optional(etaNoiseSeedDelta()),
});

export const variationStrength = () => real('variation_strength', 0, 1);

export const etaNoiseSeedDelta = () => integer('eta_noise_seed_delta', 0, 2 ** 32 - 1);

/** Whether a variation has both a seed and a strength. */
export function isWholeVariation({
  variation_seed: seed,
  variation_strength: strength = 0,
}: Partial<NoiseRequest>): boolean {
  return strength > 0 === (seed !== undefined);
}

export const HALF_A_VARIATION =
  'variation_seed and a variation_strength above 0 count only together; give both, or leave both out.';

/** Whether `eta_noise_seed_delta` comes with a source that has a generator per picture; only those support it. */
export function isKnownDelta({ noise, eta_noise_seed_delta: delta = 0 }: Partial<NoiseRequest>): boolean {
  return delta === 0 || noise === 'nv' || noise === 'a1111_cpu';
}

export const UNKNOWN_DELTA =
  'eta_noise_seed_delta (ENSD) counts only where noise is nv or a1111_cpu; choose one of them, or leave it out.';

/** Whether training ended in pure noise, for a checkpoint that does not say; diffusers' name. */
export const rescaleBetasZeroSnr = () => v.boolean('rescale_betas_zero_snr must be true or false.');

/** A decimal string from 0 to 2^64 − 1. */
export const seed = (name = 'seed') => {
  const message = `${name} must be a whole number from 0 to 18446744073709551615, written as a string such as "42".`;
  return v.pipe(v.string(message), v.regex(SEED, message));
};

/** A seed that is drawn where none is given. */
export const drawnSeed = () => v.optional(seed(), () => String(crypto.getRandomValues(new Uint32Array(1))[0]));

/**
 * A pattern for decimal numbers from 0 to `max` (two digits or more), so that the JSON Schema says the same: fewer digits; or a prefix of
 * `max`, a smaller digit, then any digits; or `max` itself.
 */
function decimalUpTo(max: string): RegExp {
  const any = (count: number) => `[0-9]{${count}}`;
  const below = [...max].flatMap((digit, at) => {
    const lowest = at === 0 ? 1 : 0;
    return Number(digit) > lowest
      ? [`${max.slice(0, at)}[${lowest}-${Number(digit) - 1}]${any(max.length - at - 1)}`]
      : [];
  });
  return new RegExp(`^(?:0|[1-9][0-9]{0,${max.length - 2}}|${below.join('|')}|${max})$`);
}

/** A picture in a parameter: a Blob (in the page) or a data URL (in JSON). */
export type ImageSource = Blob | string;

export const image = (name: string) =>
  v.custom<ImageSource>(
    (value) => (typeof value === 'string' && value.startsWith('data:image/')) || isBlob(value),
    `${name} must be a picture: a file, or a data URL that begins with "data:image/".`,
  );

/** A sound in a parameter: a Blob (in the page) or a data URL (in JSON). What holds a video's sound is one, too. */
export type SoundSource = Blob | string;

export const sound = (name: string) =>
  v.custom<SoundSource>(
    (value) => /^(?:audio|video)\//.test(fileFacts(value)?.type ?? ''),
    `${name} must be a sound: a file, or a data URL that begins with "data:audio/".`,
  );

/** Whether the parameter of this name is a mask. Masks are never flattened onto a background. */
export function isMask(name: string): boolean {
  return /(^|_)mask(_|$)/.test(name);
}

const MOST_IMAGES = 16;

/** Several pictures in one parameter, in order. */
export const images = (name: string, most = MOST_IMAGES) =>
  v.pipe(
    v.array(
      image(`Each of ${name}`),
      `${name} must be a list of pictures: files, or data URLs that begin with "data:image/".`,
    ),
    v.maxLength(most, `${name} must be at most ${most} pictures.`),
  );

const FILE = /^data:(?:image|audio|video)\//;

/** Whether a parameter's value is a file: a Blob, or a picture, sound or video as a data URL. */
export function isFile(value: unknown): value is Blob | string {
  return (typeof value === 'string' && FILE.test(value)) || isBlob(value);
}

/** Type and size of a file in a parameter; null for any other value. */
export function fileFacts(value: unknown): { type: string; bytes: number } | null {
  if (!isFile(value)) {
    return null;
  }
  if (typeof value !== 'string') {
    return { type: value.type, bytes: value.size };
  }
  const comma = value.indexOf(',');
  return {
    type: value.slice(5, comma).replace(/;base64$/, ''),
    bytes: Math.floor(((value.length - comma - 1) * 3) / 4),
  };
}

export function isBlob(value: unknown): value is Blob {
  return (
    Object.prototype.toString.call(value) === '[object Blob]' ||
    Object.prototype.toString.call(value) === '[object File]'
  );
}
