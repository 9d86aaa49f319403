/**
 * The parameters that image chunks share, as valibot schemas whose messages are whole sentences.
 * A chunk composes its own `parameters` from these and adds what only it understands.
 */
import * as v from 'valibot';

/** Seeds are decimal strings because they reach 2^64 − 1, beyond what a JSON number holds. */
const MAX_SEED = 2n ** 64n - 1n;

const integer = (name: string, min: number, max: number) => {
  const message = `${name} must be a whole number from ${min} to ${max}.`;
  return v.pipe(v.number(message), v.integer(message), v.minValue(min, message), v.maxValue(max, message));
};

const real = (name: string, min: number, max: number) => {
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

/** Pixels; the networks work on blocks of 8×8 pixels. */
export const size = (name: string, min = 16, max = 4096) => {
  const message = `${name} must be a multiple of 8 from ${min} to ${max} pixels.`;
  return v.pipe(
    v.number(message),
    v.integer(message),
    v.minValue(min, message),
    v.maxValue(max, message),
    v.multipleOf(8, message),
  );
};

/** A decimal string from 0 to 2^64 − 1. */
export const seed = () => {
  const message = 'seed must be a whole number from 0 to 18446744073709551615, written as a string such as "42".';
  return v.pipe(
    v.string(message),
    v.regex(/^(0|[1-9][0-9]{0,19})$/, message),
    v.check((text) => BigInt(text) <= MAX_SEED, message),
  );
};

/** A picture in a parameter: a Blob (in the page) or a data URL (in JSON). */
export type ImageSource = Blob | string;

export const image = (name: string) =>
  v.custom<ImageSource>(
    (value) => (typeof value === 'string' && value.startsWith('data:image/')) || isBlob(value),
    `${name} must be a picture: a file, or a data URL that begins with "data:image/".`,
  );

function isBlob(value: unknown): boolean {
  return (
    Object.prototype.toString.call(value) === '[object Blob]' ||
    Object.prototype.toString.call(value) === '[object File]'
  );
}
