/** Our own JSON in a picture or a sound: the operation with all choices made for it, and what it ran on. No picture data. */
import * as v from 'valibot';
import { loraTags, withoutLoraTags } from '../core/lora_tags.ts';
import { StudioError } from '../core/errors.ts';
import { USUAL_HIRES } from '../core/hires.ts';
import { hasMask, usualStrength } from '../core/parameters.ts';
import { hiresFields, infotextFields, writeInfotext } from './infotext.ts';
import { asciiJson, isObject, readJsonObject } from './json.ts';
import type { Inscription } from './metadata.ts';

export const SCHEMA_VERSION = 1;

const text = v.string();
const scalar = v.union([v.string(), v.number(), v.boolean()]);
const textRecord = v.record(text, text);

const loraSchema = v.object({
  /** Its ref in the library it came from. */
  lora: v.fallback(v.optional(text), undefined),
  name: text,
  weight: v.number(),
  /** As in `LoraUse`. */
  blocks: v.fallback(v.optional(v.array(v.number())), undefined),
  start: v.fallback(v.optional(v.number()), undefined),
  end: v.fallback(v.optional(v.number()), undefined),
  /** Hashes of the file, and of its tensors' bytes alone. */
  sha256: v.fallback(v.optional(text), undefined),
  data_sha256: v.fallback(v.optional(text), undefined),
});

const schema = v.object({
  schema_version: v.pipe(v.number(), v.integer(), v.minValue(1)),
  operation: v.object({
    operation: text,
    config: text,
    /** As run, including what nobody chose. Without pictures. */
    parameters: v.record(text, scalar),
  }),
  /** Index within its batch. */
  index: v.fallback(v.number(), 0),
  /** Size of pictures before they were enlarged, or painted a second time. */
  width: v.optional(v.number()),
  height: v.optional(v.number()),
  /** The upscaler used afterwards, and its factor; absent = none. */
  upscale: v.fallback(
    v.optional(v.object({ scale: v.number(), checkpoint: v.object({ name: text, ref: text }) })),
    undefined,
  ),
  checkpoint: v.fallback(v.object({ name: text, ref: v.fallback(text, ''), sha256: v.fallback(textRecord, {}) }), {
    name: '',
    ref: '',
    sha256: {},
  }),
  /** All LoRAs merged into the weights, whether or not the prompt named them. */
  loras: v.optional(v.array(loraSchema)),
  /** Program and libraries, by name. */
  versions: v.fallback(textRecord, {}),
  /** What was sampled with in the end, if the checkpoint decides. */
  sampler: v.optional(text),
  schedule: v.optional(text),
});

export type Settings = v.InferOutput<typeof schema>;

/**
 * From the metadata recorded beside a result, such as an `output_image`.
 * @param metadata unvalidated, since recordings outlive versions
 * @returns null if it lacks what all our results have
 */
export function settingsOf(metadata: Record<string, unknown>): Settings | null {
  const given = isObject(metadata.parameters) ? metadata.parameters : {};
  const parameters = Object.fromEntries(Object.entries(given).filter(([, value]) => isPlain(value)));
  // The recorded parameters include the operation, as chunks take it.
  delete parameters.operation;
  const scale = v.is(v.object({ scale: v.number() }), metadata.upscale) ? metadata.upscale.scale : 1;
  const { tiled_scale: tiled = 1, hires_scale: larger = tiled } = parameters;
  const before = (name: 'width' | 'height') => {
    const [side, painted] = [metadata[name], parameters[name]];
    if (typeof larger === 'number' && larger > 1) {
      return typeof painted === 'number'
        ? painted
        : typeof side === 'number'
          ? Math.round(side / larger / scale)
          : side;
    }
    return typeof side === 'number' ? Math.round(side / scale) : side;
  };
  const result = v.safeParse(schema, {
    ...metadata,
    width: before('width'),
    height: before('height'),
    schema_version: SCHEMA_VERSION,
    operation: { operation: metadata.operation, config: metadata.config, parameters },
  });
  return result.success ? result.output : null;
}

export function writeSettings(settings: Settings): string {
  return asciiJson(settings);
}

/**
 * @returns null for a text that is not ours
 * @throws StudioError `image_unreadable` if it is ours but damaged
 */
export function readSettings(json: string): Settings | null {
  const value = readJsonObject(json);
  if (!value || !('schema_version' in value)) {
    return null;
  }
  const result = v.safeParse(schema, value);
  if (!result.success) {
    throw new StudioError(
      'image_unreadable',
      'The settings in this picture are damaged, or from a much later Darkroom; update the page and try again.',
    );
  }
  return result.output;
}

/** What is written into a picture with these settings, in each format. */
export function inscriptionOf(settings: Settings): Inscription {
  const { operation, checkpoint, versions, upscale, loras = [] } = settings;
  const { parameters } = operation;
  const string = (name: string) => (typeof parameters[name] === 'string' ? parameters[name] : undefined);
  const number = (name: string) => (typeof parameters[name] === 'number' ? parameters[name] : undefined);
  const software = versions.darkroom ? `Darkroom ${versions.darkroom}` : 'Darkroom';
  const hashes = Object.values(checkpoint.sha256);
  const startsFromPicture = hasStart(settings);
  return {
    parameters: writeInfotext({
      prompt: [wordsOf(string('prompt') ?? '', loras.length > 0), loraTags(loras)]
        .filter((part) => part !== '')
        .join(' '),
      negative_prompt: string('negative_prompt') ?? '',
      fields: infotextFields({
        steps: number('steps'),
        sampler: string('sampler') ?? settings.sampler,
        schedule: string('schedule') ?? settings.schedule,
        guidance_scale: number('guidance_scale'),
        ...seedsOf(settings),
        clip_skip: number('clip_skip'),
        width: settings.width,
        height: settings.height,
        // AUTOMATIC1111's hash is of the one file that a checkpoint is; a folder of several has none.
        hash: hashes.length === 1 ? hashes[0].slice(0, 10) : undefined,
        model: checkpoint.name || undefined,
        loraHashes: loraHashes(loras),
        hires: hiresOf(parameters),
        tiled: tiledOf(parameters),
        upscale: upscale && { scale: upscale.scale, name: upscale.checkpoint.name },
        strength: startsFromPicture ? (number('strength') ?? usualStrength(hasMask(operation.operation))) : undefined,
        software,
      }),
    }),
    darkroom: writeSettings(settings),
    software,
    isComposite: startsFromPicture,
  };
}

/** The second pass of a picture that had one. */
function hiresOf({
  hires_scale: scale,
  hires_steps: own,
  hires_denoising_strength: strength = USUAL_HIRES.strength,
  hires_upscaler: upscaler = USUAL_HIRES.upscaler,
  steps,
}: Settings['operation']['parameters']): ReturnType<typeof hiresFields> | undefined {
  const count = own ?? steps;
  return typeof scale === 'number' && scale > 1 && typeof strength === 'number'
    ? hiresFields({ scale, steps: typeof count === 'number' ? count : undefined, strength, upscaler: String(upscaler) })
    : undefined;
}

/** How a picture was painted in tiles, where it was. */
function tiledOf({
  tiled_scale: scale,
  tiled_size: size,
  tiled_overlap: overlap,
  tiled_upscaler: upscaler = 'lanczos',
}: Settings['operation']['parameters']) {
  const number = (value: unknown) => (typeof value === 'number' ? value : undefined);
  return typeof scale === 'number'
    ? { scale, size: number(size), overlap: number(overlap), upscaler: String(upscaler) }
    : undefined;
}

/** Whether it was made from a given picture and not from words alone. */
export function hasStart({ operation: { operation, parameters } }: Settings): boolean {
  return operation === 'video_generation' ? 'strength' in parameters : operation !== 'image_generation';
}

/** The seed of this picture alone, as AUTOMATIC1111 writes it, if each picture has its own generator. */
function seedsOf({ operation: { parameters }, index }: Settings) {
  const { noise, seed, variation_seed, variation_strength, eta_noise_seed_delta } = parameters;
  const counted = (value: unknown, counts: boolean) =>
    typeof value === 'string' && /^\d+$/.test(value)
      ? String(BigInt.asUintN(64, BigInt(value) + BigInt(counts ? index : 0)))
      : undefined;
  const number = (value: unknown) => (typeof value === 'number' && value > 0 ? value : undefined);
  const isOwn = noise === 'nv' || noise === 'a1111_cpu';
  const varies = number(variation_strength) !== undefined;
  return {
    seed: counted(seed, isOwn && !varies),
    noise: typeof noise === 'string' ? noise : undefined,
    variation_seed: varies ? counted(variation_seed, isOwn) : undefined,
    variation_strength: number(variation_strength),
    eta_noise_seed_delta: number(eta_noise_seed_delta),
  };
}

/** The prompt without its tags, if those of all LoRAs follow it. */
function wordsOf(prompt: string, hasLoras: boolean): string {
  return hasLoras ? withoutLoraTags(prompt) : prompt;
}

/** `paper: 0123456789ab, ink: …`, as AUTOMATIC1111's own: twelve digits of the hash over the tensors' bytes. */
function loraHashes(loras: NonNullable<Settings['loras']>): string | undefined {
  const known = loras.flatMap(({ name, data_sha256: hash }) =>
    hash === undefined ? [] : [`${name.replace(/[:,]/g, '')}: ${hash.slice(0, 12)}`],
  );
  return known.length > 0 ? known.join(', ') : undefined;
}

function isPlain(value: unknown): boolean {
  return typeof value === 'string' ? !value.startsWith('data:') : ['number', 'boolean'].includes(typeof value);
}
