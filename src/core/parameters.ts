/**
 * The parameters that image chunks share, as valibot schemas whose messages are whole sentences.
 * A chunk composes its own `parameters` from these and adds what only it understands.
 */
import * as v from 'valibot';
import { GREATEST_LORA_WEIGHT } from './loras.ts';
import { WEIGHT_VARIANTS } from './model.ts';

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

/** The share of the noise schedule that is run on a given picture: 1 repaints it, 0.1 barely touches it. */
export const strength = () => {
  const message = 'strength must be a number above 0 and up to 1.';
  return v.pipe(v.number(message), v.gtValue(0, message), v.maxValue(1, message));
};

/** Where nothing is said: diffusers' defaults for inpainting and for a picture without a mask. */
export function usualStrength(hasMask: boolean): number {
  return hasMask ? 1 : 0.8;
}

const MOST_LORAS = 16;

/** Factor of a LoRA's changes: 1 as it was trained, 0 none, negative the opposite. */
export const loraWeight = () => real('weight', -GREATEST_LORA_WEIGHT, GREATEST_LORA_WEIGHT);

/** LoRAs of the library by ref or name, all of them applied together. See `LoraUse`. */
export const loras = () =>
  v.pipe(
    v.array(
      v.strictObject({
        lora: v.pipe(
          v.string('lora must be the ref or the name of a stored LoRA.'),
          v.nonEmpty('lora must be the ref or the name of a stored LoRA.'),
        ),
        weight: v.optional(loraWeight(), 1),
      }),
      'loras must be a list of LoRAs, such as [{"lora": "paper", "weight": 0.8}].',
    ),
    v.maxLength(MOST_LORAS, `loras must be at most ${MOST_LORAS}.`),
  );

/**
 * Whether the picture to start from is laid over the result where the mask is black (true where it is left out), as AUTOMATIC1111's option of
 * that name does: it stays as it was to the bit. False gives the checkpoint's own picture, in which all of it went through the autoencoder.
 */
export const overlayInpaint = () => v.boolean('overlay_inpaint must be true or false.');

/** Written as "#rrggbb": what shows through the transparent parts of a given picture. White where it is left out, as in AUTOMATIC1111. */
export const background = () => {
  const message = 'background must be a colour written as "#rrggbb", such as "#ffffff" for white.';
  return v.pipe(v.string(message), v.regex(/^#[0-9a-fA-F]{6}$/, message));
};

/** Whether this is a colour as {@link background} wants it. */
export function isColour(value: unknown): value is string {
  return v.is(background(), value);
}

/** Pixels; the networks work on blocks of 8×8 pixels, or of as many as `multiple` says. */
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

/** Pixels of a picture that need not be one of ours: its size, or where it was cut out. */
export const pixels = (name: string, min = 0) => integer(name, min, 16384);

/** Pixels per side of the tiles that a picture is decoded in; smaller tiles need less memory and show their borders sooner. */
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

/** How the weights are run; `auto` takes the best that fits. */
export const weights = () => v.picklist(['auto', ...WEIGHT_VARIANTS], 'weights must be auto, full, q8 or q4.');

/** What the network was trained to predict, for a checkpoint that does not say it, or says it wrong. */
export const predictionType = () =>
  v.picklist(['epsilon', 'v_prediction'], 'prediction_type must be epsilon or v_prediction.');

/** Whose numbers a sampler gives where the tools differ; left out = the checkpoint's own class where it knows the sampler. */
export const CONVENTIONS = ['diffusers', 'comfyui'] as const;

export const follows = () => v.picklist(CONVENTIONS, 'follows must be diffusers or comfyui.');

/** Whether the noise levels of training end in pure noise, for a checkpoint that does not say it; diffusers' name. */
export const rescaleBetasZeroSnr = () => v.boolean('rescale_betas_zero_snr must be true or false.');

/** A decimal string from 0 to 2^64 − 1. */
export const seed = () => {
  const message = 'seed must be a whole number from 0 to 18446744073709551615, written as a string such as "42".';
  return v.pipe(v.string(message), v.regex(SEED, message));
};

/**
 * Decimal numbers from 0 to `max`, which is longer than one digit: fewer digits; or its own first digits, then a smaller one, then any; or
 * itself. As a pattern, so that the JSON Schema says the same.
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

/** Whether the picture of this name says by its colours what is changed. Such pictures never lie on a background. */
export function isMask(name: string): boolean {
  return /(^|_)mask(_|$)/.test(name);
}

const MOST_IMAGES = 16;

/** Several pictures in one parameter, in the order in which they count. */
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

/** Type and bytes of a file in a parameter, or null for any other value. */
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
