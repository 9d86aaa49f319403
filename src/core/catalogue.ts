/** What can be made: pipelines define the steps, configs supply the values, chunks do the work. All of it is data, and the folders are the registry. */
import * as v from 'valibot';
import type { ChunkContract } from './chunk.ts';

export const localized = v.strictObject({ en: v.pipe(v.string(), v.nonEmpty()), de: v.pipe(v.string(), v.nonEmpty()) });
const identifier = v.pipe(v.string(), v.regex(/^[a-z][a-z0-9_]*$/));

/** `{{NAME}}`: a placeholder that a config fills with its parameter of that name. */
export const OPEN_PLACE = /^\{\{([A-Z][A-Z0-9_]*)\}\}$/;
/** Parameters that fill placeholders; a config's other parameters are values for the steps. */
export const PLACE_NAME = /^[A-Z][A-Z0-9_]*$/;

const stepSchema = v.strictObject({
  id: identifier,
  /** A chunk's id, or a placeholder. */
  chunk: v.string(),
  /** By parameter of the chunk: `$input.NAME`, `$STEP.OUTPUT` of an earlier step, `{{NAME}}`, or a value. */
  in: v.optional(v.record(v.string(), v.unknown()), () => ({})),
  /** Runs only if the operation names a checkpoint for it in `checkpoints`. A config without the outputs it is wired to leaves it out. */
  optional: v.exactOptional(v.boolean()),
});

const stepsSchema = v.strictObject({
  name: identifier,
  /** The operation's parameters that steps are wired to, with their media. */
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

/** What a config says in its file's fields, but for its checkpoint. */
export const configEntries = {
  /** By language; at least `en`. */
  name: v.record(v.string(), v.string()),
  /** One sentence on what it makes, shown in lists. */
  description: v.optional(localized),
  pipeline: v.string(),
  /** Of its result. */
  media: identifier,
  /** Narrows down the operations and fields of its main step, if the config offers fewer than its chunk. */
  operations: v.optional(v.pipe(v.array(identifier), v.minLength(1))),
  fields: v.optional(v.array(identifier)),
  /** For a config that runs on another machine: the one that makes the same here. The page shows both as one, with a choice of where. */
  here: v.exactOptional(identifier),
  /** Values for the steps' fields. Names in capitals fill the pipeline's placeholders; a step's id holds values for that step alone. */
  parameters: v.record(v.string(), v.unknown()),
};

/** A config, as far as the page needs it from its start; its file's name is its id, and `config_file.ts` has the rest of the file. */
export const configSchema = v.object({
  ...configEntries,
  /** The checkpoint it brings; null if it runs any checkpoint of its family, or none at all. */
  checkpoint: v.nullable(v.object({ repo: v.string() })),
});

export type Config = v.InferOutput<typeof configSchema> & { id: string };

export interface Catalogue {
  pipelines: Record<string, Pipeline>;
  configs: Record<string, Config>;
  chunks: Record<string, ChunkContract>;
}

/** Looks up an untrusted name without reaching `Object.prototype`. */
export function own<T>(record: Record<string, T>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}
