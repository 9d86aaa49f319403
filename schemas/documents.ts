/**
 * The JSON Schemas that are served at `/schemas/`, made from the valibot code that judges operations, so that the two cannot part. Runs while
 * the page is built and in the dev server, never in the page.
 */
import { toJsonSchema } from '@valibot/to-json-schema';
import * as v from 'valibot';
import type { ChunkContract } from '../src/core/chunk.ts';
import { ERROR_CODES } from '../src/core/errors.ts';
import { OPERATION_KINDS, operationSchema } from '../src/core/operation.ts';
import type { OperationKind } from '../src/core/operation.ts';
import { chunksOf, closed } from '../src/core/plan.ts';
import type { Catalogue, Config } from '../src/core/plan.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';

/** A JSON Schema of draft 7, or a part of one. */
export type JsonSchema = { [key: string]: unknown };

/** Every served document by its name below `/schemas/`. */
export function documents(): Record<string, JsonSchema> {
  return { 'operation.json': operationDocument(catalogue), 'error.json': errorDocument() };
}

/**
 * What the doors accept: the envelope, and for each config the parameters of the chunks that it runs. It says no more than can be known
 * without a checkpoint: whether that has a sampler of this name, or fits the device, is said by the job.
 */
export function operationDocument(from: Catalogue): JsonSchema {
  const { $schema, ...envelope } = converted(operationSchema);
  const configs = Object.values(from.configs);
  const properties = envelope.properties as Record<string, JsonSchema>;
  return {
    $schema,
    title: 'Darkroom operation',
    ...envelope,
    properties: { ...properties, config: { ...properties.config, enum: configs.map(({ id }) => id) } },
    allOf: configs.map((config) => ({
      if: { properties: { config: { const: config.id } }, required: ['config'] },
      then: ofConfig(config, chunksOf(config, from)),
    })),
    definitions: Object.fromEntries(
      configs.flatMap((config) =>
        chunksOf(config, from).map((chunk) => [`${config.id}.${chunk.meta.id}`, parametersOf(chunk, config)]),
      ),
    ),
  };
}

/** What is answered instead of a result. */
export function errorDocument(): JsonSchema {
  const error = v.strictObject({
    code: v.picklist(ERROR_CODES),
    message: v.pipe(v.string(), v.description('One sentence: what happened, and what to do.')),
    retry: v.pipe(v.picklist(['same', 'smaller', 'never']), v.description('What may help when it is tried again.')),
  });
  return { ...converted(v.strictObject({ error })), title: 'Darkroom error' };
}

function ofConfig(config: Config, chunks: ChunkContract[]): JsonSchema {
  const kinds = OPERATION_KINDS.filter((kind) => chunks.every(({ meta }) => meta.operations.includes(kind)));
  return {
    properties: {
      operation: { enum: kinds },
      parameters: { allOf: chunks.map(({ meta }) => ({ $ref: `#/definitions/${config.id}.${meta.id}` })) },
    },
    allOf: kinds.flatMap((kind) =>
      chunks.flatMap((chunk) => {
        const parameters = picturesFor(kind, chunk);
        return parameters
          ? [{ if: { properties: { operation: { const: kind } } }, then: { properties: { parameters } } }]
          : [];
      }),
    ),
  };
}

/** A chunk's parameters as an operation gives them: the kind is the operation's own, and what the config says may be left out. */
function parametersOf(chunk: ChunkContract, config: Config): JsonSchema {
  const schema = without(converted(chunk.parameters), '$schema');
  const given = closed(config.parameters);
  const properties = without(schema.properties as Record<string, JsonSchema>, 'operation');
  const named = (name: string) => (name in given ? { ...properties[name], default: given[name] } : properties[name]);
  return {
    ...schema,
    properties: Object.fromEntries(Object.keys(properties).map((name) => [name, named(name)])),
    required: ((schema.required ?? []) as string[]).filter((name) => name !== 'operation' && !(name in given)),
  };
}

/**
 * Which pictures this kind of operation needs and which it refuses. A chunk says so in checks between its parameters, which no
 * converter understands, so it is asked: every set of pictures is tried. Null when no set of pictures alone satisfies it.
 */
function picturesFor(kind: OperationKind, { parameters }: ChunkContract): JsonSchema | null {
  const { entries } = parameters as unknown as { entries: Record<string, v.GenericSchema> };
  const pictures = Object.keys(entries).filter((name) => isPicture(entries[name]));
  const others = Object.fromEntries(
    Object.entries(entries)
      .filter(([, schema]) => !v.is(schema, undefined))
      .map(([name, schema]) => [name, SAMPLES.find((sample) => v.is(schema, sample))]),
  );
  const accepted = subsets(pictures).filter((set) =>
    v.is(parameters, { ...others, operation: kind, ...Object.fromEntries(set.map((name) => [name, PICTURE])) }),
  );
  return accepted.length === 0
    ? null
    : {
        required: pictures.filter((name) => accepted.every((set) => set.includes(name))),
        properties: Object.fromEntries(
          pictures.filter((name) => !accepted.some((set) => set.includes(name))).map((name) => [name, false]),
        ),
      };
}

const PICTURE = 'data:image/png;base64,';
const SAMPLES = ['', 'x', PICTURE, '1', 0, 1, 64, 0.5, true, [], {}];

function isPicture(schema: v.GenericSchema): boolean {
  const { wrapped } = schema as { wrapped?: v.GenericSchema };
  return (wrapped ?? schema).type === 'custom';
}

function without<T>(record: Record<string, T>, name: string): Record<string, T> {
  return Object.fromEntries(Object.entries(record).filter(([key]) => key !== name));
}

function subsets(names: string[]): string[][] {
  return names.reduce<string[][]>((found, name) => [...found, ...found.map((set) => [...set, name])], [[]]);
}

function converted(schema: v.GenericSchema): JsonSchema {
  return toJsonSchema(schema, {
    typeMode: 'input',
    // JSON has no infinities; checks between parameters are found out by trying, see above.
    ignoreActions: ['finite', 'check'],
    overrideSchema({ valibotSchema, jsonSchema }) {
      const {
        type,
        message,
        default: byDefault,
      } = valibotSchema as {
        type: string;
        message?: unknown;
        default?: unknown;
      };
      if (type === 'custom') {
        // The only one there is: a picture, which in JSON is a data URL.
        return { type: 'string', pattern: '^data:image/' };
      }
      return {
        // One that is made anew each time, such as a seed, is none to write down.
        ...(typeof byDefault === 'function' ? without(jsonSchema as JsonSchema, 'default') : jsonSchema),
        ...(typeof message === 'string' ? { description: message } : {}),
      };
    },
  }) as JsonSchema;
}
