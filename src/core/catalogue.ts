/** What can be made: pipelines say which steps, configs say with which values, chunks say how. All of it is data; folders are the registry. */
import * as v from 'valibot';
import type { ChunkContract } from './chunk.ts';

const localized = v.strictObject({ en: v.pipe(v.string(), v.nonEmpty()), de: v.pipe(v.string(), v.nonEmpty()) });
const https = v.pipe(v.string(), v.url(), v.startsWith('https://'));
const whole = (min: number) => v.pipe(v.number(), v.integer(), v.minValue(min));
const identifier = v.pipe(v.string(), v.regex(/^[a-z][a-z0-9_]*$/));

/** `{{NAME}}`: a place that a config fills with its parameter of that name. */
export const OPEN_PLACE = /^\{\{([A-Z][A-Z0-9_]*)\}\}$/;
/** Names that fill open places; a config's other parameters are values for the steps. */
export const PLACE_NAME = /^[A-Z][A-Z0-9_]*$/;

const stepSchema = v.strictObject({
  id: identifier,
  /** A chunk's id, or an open place. */
  chunk: v.string(),
  /** By parameter of the chunk: `$input.NAME`, `$STEP.OUTPUT` of an earlier step, `{{NAME}}`, or a value. */
  in: v.optional(v.record(v.string(), v.unknown()), () => ({})),
});

const stepsSchema = v.strictObject({
  name: identifier,
  /** Parameters of the operation that the steps are wired to, with their media. */
  inputs: v.optional(v.record(v.string(), v.string()), () => ({})),
  steps: v.pipe(v.array(stepSchema), v.minLength(1)),
});

const shortSchema = v.pipe(
  v.strictObject({ name: identifier, chunks: v.tuple([v.string()]) }),
  v.transform(({ name, chunks: [chunk] }) => ({
    name,
    inputs: {},
    steps: [{ id: 'output', chunk, in: {} }],
  })),
);

/** A pipeline file: its steps, or `"chunks": ["{{OUTPUT_CHUNK}}"]` for one step named `output`. */
export const pipelineSchema = v.union([stepsSchema, shortSchema]);

export type Pipeline = v.InferOutput<typeof stepsSchema>;

/** A checkpoint that a config brings. What is not known for certain is null, never a guess. */
export const catalogueCheckpointSchema = v.strictObject({
  /** `org/name` on the hub. */
  repo: v.pipe(v.string(), v.regex(/^[\w.-]+\/[\w.-]+$/)),
  /** The commit it was seen at; null = its `main`, which a look resolves to a commit. */
  revision: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/))),
  /** The repository's page. */
  link: https,
  license: v.strictObject({
    /** SPDX id or the hub's own; null where the repository is not known to name one. */
    id: v.nullable(v.pipe(v.string(), v.nonEmpty())),
    link: v.nullable(https),
    /** What it allows, roughly; the text decides. */
    kind: v.picklist(['permissive', 'share_alike', 'use_restricted', 'non_commercial', 'unknown']),
  }),
  /** Of the files that a picture from words needs. */
  bytes: v.nullable(whole(1)),
  /** Of its networks together. */
  parameters: v.nullable(whole(1)),
  /** Whether revision, licence, bytes and a picture were checked against the repository itself. */
  verified: v.boolean(),
  /** What could not be checked, as a sentence; null once it is verified. */
  unverified: v.nullable(localized),
  recommended: v.strictObject({
    width: whole(16),
    height: whole(16),
    steps: whole(1),
    guidance_scale: v.pipe(v.number(), v.minValue(0)),
  }),
  description: localized,
  /** Whom it suits. */
  audience: localized,
});

/** Where in a config's template the person's words stand. Places for more of them are `___`. */
export const BLANK = '{words}';

const template = v.pipe(
  localized,
  v.check(
    (texts) => Object.values(texts).every((text) => text.split(BLANK).length === 2),
    `A template holds ${BLANK} once in each language.`,
  ),
);

/** A config file, without its id, which is its name. */
export const configSchema = v.strictObject({
  /** By language; at least `en`. */
  name: v.record(v.string(), v.string()),
  /** What it makes, in one sentence; for lists of things to make. */
  description: v.optional(localized),
  pipeline: v.string(),
  /** Of its result. */
  media: identifier,
  /** What its main step can do, and which of its fields can be set, where that is less than its chunk knows. */
  operations: v.optional(v.pipe(v.array(identifier), v.minLength(1))),
  fields: v.optional(v.array(identifier)),
  /** Values for the steps' fields; names in capitals fill the pipeline's open places. A step's id holds values for that step alone. */
  parameters: v.record(v.string(), v.unknown()),
  /** What its rule comes to, as words with blanks to fill by hand where no language model is there. */
  template: v.optional(template),
  /** The checkpoint it brings, or null for one that takes any checkpoint of its family, or none. */
  checkpoint: v.nullable(catalogueCheckpointSchema),
});

export type CatalogueCheckpoint = v.InferOutput<typeof catalogueCheckpointSchema>;
export type Config = v.InferOutput<typeof configSchema> & { id: string };

export interface Catalogue {
  pipelines: Record<string, Pipeline>;
  configs: Record<string, Config>;
  chunks: Record<string, ChunkContract>;
}

/** Reads a record by a name from outside, which must not reach `Object.prototype`. */
export function own<T>(record: Record<string, T>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}
