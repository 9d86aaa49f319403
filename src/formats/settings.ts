/** Our own JSON in a picture or a sound: the operation with everything that was chosen for it, and what it ran on. No picture data. */
import * as v from 'valibot';
import { loraTags, withoutLoraTags } from '../core/loras.ts';
import { StudioError } from '../core/errors.ts';
import { usualStrength } from '../core/parameters.ts';
import { infotextFields, writeInfotext } from './infotext.ts';
import { asciiJson, isObject, readJsonObject } from './json.ts';
import type { Inscription } from './metadata.ts';

export const SCHEMA_VERSION = 1;

const text = v.string();
const scalar = v.union([v.string(), v.number(), v.boolean()]);
const textRecord = v.record(text, text);

const loraSchema = v.object({
  /** In the library that it came from. */
  lora: v.fallback(v.optional(text), undefined),
  name: text,
  weight: v.number(),
  /** Of the file, and of its tensors' bytes alone. */
  sha256: v.fallback(v.optional(text), undefined),
  data_sha256: v.fallback(v.optional(text), undefined),
});

const schema = v.object({
  schema_version: v.pipe(v.number(), v.integer(), v.minValue(1)),
  operation: v.object({
    operation: text,
    config: text,
    /** As run: also what nobody chose. Pictures are left out. */
    parameters: v.record(text, scalar),
  }),
  /** Which of the pictures made at once. */
  index: v.fallback(v.number(), 0),
  /** Of pictures. */
  width: v.optional(v.number()),
  height: v.optional(v.number()),
  checkpoint: v.fallback(v.object({ name: text, ref: v.fallback(text, ''), sha256: v.fallback(textRecord, {}) }), {
    name: '',
    ref: '',
    sha256: {},
  }),
  /** All that were merged into the weights, whether the prompt named them or not. */
  loras: v.optional(v.array(loraSchema)),
  /** Program and libraries, by name. */
  versions: v.fallback(textRecord, {}),
  /** What sampled in the end, where the checkpoint decides. */
  sampler: v.optional(text),
  schedule: v.optional(text),
});

export type Settings = v.InferOutput<typeof schema>;

/**
 * From what is recorded beside a result (the metadata of an `output_image`).
 * @param metadata foreign data: recordings outlive versions
 * @returns null when it lacks what every result of ours has
 */
export function settingsOf(metadata: Record<string, unknown>): Settings | null {
  const given = isObject(metadata.parameters) ? metadata.parameters : {};
  const parameters = Object.fromEntries(Object.entries(given).filter(([, value]) => isPlain(value)));
  // In the recorded parameters the operation stands beside the others, as chunks take it.
  delete parameters.operation;
  const result = v.safeParse(schema, {
    ...metadata,
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
 * @throws StudioError `image_unreadable`, for one of ours that is damaged
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

/** What is written into a picture of these settings, in each form. */
export function inscriptionOf(settings: Settings): Inscription {
  const { operation, checkpoint, versions, loras = [] } = settings;
  const { parameters } = operation;
  const string = (name: string) => (typeof parameters[name] === 'string' ? parameters[name] : undefined);
  const number = (name: string) => (typeof parameters[name] === 'number' ? parameters[name] : undefined);
  const software = versions.darkroom ? `Darkroom ${versions.darkroom}` : 'Darkroom';
  const hashes = Object.values(checkpoint.sha256);
  const startsFromPicture = operation.operation !== 'image_generation';
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
        seed: string('seed'),
        width: settings.width,
        height: settings.height,
        // AUTOMATIC1111's hash is of the one file that a checkpoint is; a folder of several has none.
        hash: hashes.length === 1 ? hashes[0].slice(0, 10) : undefined,
        model: checkpoint.name || undefined,
        loraHashes: loraHashes(loras),
        strength: startsFromPicture
          ? (number('strength') ?? usualStrength(operation.operation === 'image_inpaint'))
          : undefined,
        software,
      }),
    }),
    darkroom: writeSettings(settings),
    software,
    isComposite: startsFromPicture,
  };
}

/** The prompt without its own tags, where those of all LoRAs follow it. */
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
