/**
 * The JSON Schemas that are served at `/schemas/`, made from the valibot code that judges operations, so that the two cannot part. Runs while
 * the page is built and in the dev server, never in the page.
 */
import { toJsonSchema } from '@valibot/to-json-schema';
import * as v from 'valibot';
import type { ChunkContract } from '../src/core/chunk.ts';
import { ERROR_CODES } from '../src/core/errors.ts';
import type { Catalogue, Config } from '../src/core/catalogue.ts';
import { operationSchema } from '../src/core/operation.ts';
import { operationKinds } from '../src/core/plan.ts';
import { asAsked, courseOf, entriesOf, openEntries, valuesOf } from '../src/core/steps.ts';
import type { Course, Wire } from '../src/core/steps.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';

/** A JSON Schema of draft 7, or a part of one. */
export type JsonSchema = { [key: string]: unknown };

/** Every served document by its name below `/schemas/`. */
export function documents(): Record<string, JsonSchema> {
  return { 'operation.json': operationDocument(catalogue), 'error.json': errorDocument() };
}

/**
 * What the doors accept: the envelope, and for each config the union of the fields that its steps take, as the plan judges them. It says no more
 * than can be known without a checkpoint: whether that has a sampler of this name, or fits the device, is said by the job.
 */
export function operationDocument(from: Catalogue): JsonSchema {
  const { $schema, ...envelope } = converted(operationSchema);
  const properties = envelope.properties as Record<string, JsonSchema>;
  const configs = Object.values(from.configs).flatMap((config) => {
    const course = courseOf(config, from);
    return typeof course === 'string' ? [] : [{ config, course }];
  });
  return {
    $schema,
    title: 'Darkroom operation',
    ...envelope,
    properties: {
      ...properties,
      operation: { ...properties.operation, enum: operationKinds(from) },
      config: { ...properties.config, enum: configs.map(({ config }) => config.id) },
    },
    allOf: configs.map(({ config, course }) => ({
      if: { properties: { config: { const: config.id } }, required: ['config'] },
      then: ofConfig(config, course),
    })),
    definitions: Object.fromEntries([
      ...configs.flatMap(({ config, course }) =>
        coursesOf(config, course).map(({ name, asked }) => [name, parametersOf(config, asked)] as const),
      ),
      ...Object.values(from.chunks).map((chunk) => [definitionOf(chunk), valuesFor(chunk)] as const),
    ]),
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

/** The steps of a config with and without those that are optional, the latter first; each with the name of its parameters. */
function coursesOf({ id }: Config, course: Course): { name: string; asked: Course }[] {
  const optional = course.steps.flatMap((step) => (step.isOptional ? [step.id] : []));
  const always = { name: id, asked: asAsked(course, []) };
  return optional.length === 0 ? [always] : [always, { name: `${id}_with_${optional.join('_')}`, asked: course }];
}

function ofConfig(config: Config, course: Course): JsonSchema {
  const [always, whole] = coursesOf(config, course).map(({ name, asked }) => ofSteps(config, asked, name));
  const named = course.steps
    .filter(({ isOptional }) => isOptional)
    .flatMap(({ id }) =>
      ['checkpoints', 'given'].map((field) => ({ required: [field], properties: { [field]: { required: [id] } } })),
    );
  return named.length === 0 ? always : { if: { anyOf: named }, then: whole, else: always };
}

/** @param name of the definition of its parameters */
function ofSteps(config: Config, course: Course, name: string): JsonSchema {
  const { operations, main, steps } = course;
  const ids = steps.map(({ id }) => id);
  const pictures = operations.flatMap((kind) => {
    const parameters = picturesFor(kind, main.chunk, Object.keys(main.wires));
    return parameters
      ? [{ if: { properties: { operation: { const: kind } } }, then: { properties: { parameters } } }]
      : [];
  });
  return {
    properties: {
      operation: { enum: operations },
      parameters: { $ref: `#/definitions/${name}` },
      until: { enum: ids },
      checkpoints: { propertyNames: { enum: ids } },
      given: {
        propertyNames: { enum: ids },
        properties: Object.fromEntries(
          steps.map(({ id, chunk }) => [
            id,
            {
              required: Object.keys(chunk.meta.outputs),
              properties: Object.fromEntries(Object.keys(chunk.meta.outputs).map((name) => [name, true])),
              additionalProperties: false,
            },
          ]),
        ),
      },
    },
    // A step that is given is not run, and then its fields are not asked for.
    if: { not: { required: ['given'] } },
    then: {
      properties: { parameters: { required: requiredOf(config, course) } },
      // JSON Schema knows no empty list of schemas.
      ...(pictures.length > 0 && { allOf: pictures }),
    },
  };
}

/** The fields of all steps in one object. One that two steps have must satisfy both. */
function parametersOf(config: Config, { steps }: Course): JsonSchema {
  const configured = valuesOf(config);
  const fields: Record<string, JsonSchema[]> = {};
  for (const step of steps) {
    const properties = propertiesOf(step.chunk);
    const open = Object.keys(openEntries(step)).map((name): [string, JsonSchema] => [name, properties[name]]);
    const inputs = Object.entries(step.wires).flatMap(([name, wire]): [string, JsonSchema][] =>
      wire.from === 'input' ? [[wire.name, properties[name]]] : [],
    );
    for (const [name, schema] of [...open, ...inputs]) {
      const same = (fields[name] ??= []).some((known) => JSON.stringify(known) === JSON.stringify(schema));
      fields[name].push(...(same ? [] : [schema]));
    }
  }
  const merged = Object.entries(fields).map(([name, schemas]): [string, JsonSchema] => [
    name,
    {
      ...(schemas.length === 1 ? schemas[0] : { allOf: schemas }),
      ...(name in configured ? { default: configured[name] } : {}),
    },
  ]);
  const alone = steps.map(({ id, chunk }): [string, JsonSchema] => [
    id,
    { $ref: `#/definitions/${definitionOf(chunk)}` },
  ]);
  return {
    type: 'object',
    properties: Object.fromEntries([...merged, ...(steps.length > 1 ? alone : [])]),
    additionalProperties: false,
  };
}

function definitionOf({ meta }: ChunkContract): string {
  return `values_of_${meta.id}`;
}

/** Values for one step alone. */
function valuesFor(chunk: ChunkContract): JsonSchema {
  return { type: 'object', properties: propertiesOf(chunk), additionalProperties: false };
}

/** Fields without which no step can begin. What the config says, or what a step's own object may say, can be left out. */
function requiredOf(config: Config, { steps }: Course): string[] {
  const configured = valuesOf(config);
  const names = steps.flatMap((step) => {
    const required = (converted(step.chunk.parameters).required ?? []) as string[];
    const own = required.filter((name) => name !== 'operation' && !(name in configured));
    const open = own.filter((name) => steps.length === 1 && !(name in step.wires));
    const inputs = own.flatMap((name) => {
      const wire = step.wires[name] as Wire | undefined;
      return wire?.from === 'input' ? [wire.name] : [];
    });
    return [...open, ...inputs];
  });
  return [...new Set(names)];
}

/** A chunk's parameters as an operation gives them: the kind is the operation's own. */
function propertiesOf({ parameters }: ChunkContract): Record<string, JsonSchema> {
  return without(converted(parameters).properties as Record<string, JsonSchema>, 'operation');
}

/**
 * Which pictures this kind of operation needs and which it refuses. A chunk says so in checks between its parameters, which no
 * converter understands, so it is asked: every set of pictures is tried. Null when no set of pictures alone satisfies it.
 */
function picturesFor(kind: string, chunk: ChunkContract, wired: readonly string[]): JsonSchema | null {
  const { parameters } = chunk;
  const entries = entriesOf(chunk);
  const pictures = Object.keys(entries).filter((name) => isPicture(entries[name]) && !wired.includes(name));
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
