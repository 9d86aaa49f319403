/** A config's steps, each with its chunk and the sources of its parameters, and what an operation of that config may contain. */
import type * as v from 'valibot';
import { OPEN_PLACE, PLACE_NAME, own } from './catalogue.ts';
import type { Catalogue, Config } from './catalogue.ts';
import type { ChunkContract, ChunkMeta } from './chunk.ts';

/** The source of a parameter that the operation does not set by name. */
export type Wire =
  { from: 'input'; name: string } | { from: 'step'; step: string; output: string } | { from: 'value'; value: unknown };

export interface Step {
  /** Unique within the pipeline; the key of settled parameters, progress, resume points and entities. */
  id: string;
  chunk: ChunkContract;
  /** By parameter. */
  wires: Record<string, Wire>;
  /** Runs only if the operation names a checkpoint for it. */
  isOptional: boolean;
}

/** A config as it runs. */
export interface Course {
  steps: Step[];
  /** The main step: the one in a placeholder, or else the last. Its chunk determines the config's operations. */
  main: Step;
  /** The kinds of operations it offers. */
  operations: readonly string[];
}

const WIRE = /^\$([A-Za-z][A-Za-z0-9_]*)\.([A-Za-z][A-Za-z0-9_]*)$/;
const MAIN_PLACE = '{{OUTPUT_CHUNK}}';

/**
 * The steps of a config in order.
 * @returns a sentence if the catalogue contradicts itself, for example with a chunk that does not exist: a bug of ours or of an added file
 */
export function courseOf(config: Config, { pipelines, chunks }: Catalogue): Course | string {
  const pipeline = own(pipelines, config.pipeline);
  if (!pipeline) {
    return `The config "${config.id}" names the pipeline "${config.pipeline}", which does not exist.`;
  }
  const steps: Step[] = [];
  for (const { id, chunk: place, in: wiring, optional: isOptional = false } of pipeline.steps) {
    const chunkId = String(filled(place, config));
    const chunk = own(chunks, chunkId);
    if (!chunk) {
      return `The pipeline "${pipeline.name}" needs the chunk "${chunkId}", which does not exist.`;
    }
    const wires: Step['wires'] = {};
    const isGiven = (wire: Wire) =>
      wire.from !== 'step' || steps.some((step) => step.id === wire.step && own(step.chunk.meta.outputs, wire.output));
    if (isOptional && !Object.values(wiring).every((text) => isGiven(wireOf(filled(text, config))))) {
      // The step has no use for what the config makes.
      continue;
    }
    for (const [name, text] of Object.entries(wiring)) {
      const wire = wireOf(filled(text, config));
      if (!isGiven(wire)) {
        return `The step "${id}" of the pipeline "${pipeline.name}" is wired to "${String(text)}", which no earlier step gives.`;
      }
      if (wire.from === 'input' && !own(pipeline.inputs, wire.name)) {
        return `The step "${id}" of the pipeline "${pipeline.name}" is wired to "${String(text)}", which is not among its inputs.`;
      }
      if (!own(entriesOf(chunk), name)) {
        return `The step "${id}" of the pipeline "${pipeline.name}" wires "${name}", which the chunk "${chunkId}" does not know.`;
      }
      wires[name] = wire;
    }
    steps.push({ id, chunk, wires, isOptional });
  }
  const places = new Map(pipeline.steps.map(({ id, chunk }) => [id, chunk]));
  const main =
    steps.find(({ id }) => places.get(id) === MAIN_PLACE) ?? steps.filter(({ isOptional }) => !isOptional).at(-1);
  if (!main) {
    return `The pipeline "${pipeline.name}" has no step that always runs.`;
  }
  const { fields, operations = main.chunk.meta.operations } = config;
  if (fields) {
    const closed = Object.keys(openEntries(main)).filter((name) => !fields.includes(name));
    closed.forEach((name) => (main.wires[name] = { from: 'value', value: undefined }));
  }
  return { steps, main, operations };
}

/** A course as one operation runs it. @param named ids of the steps whose checkpoint it names or whose outputs it brings */
export function asAsked(course: Course, named: readonly string[]): Course {
  return { ...course, steps: course.steps.filter(({ id, isOptional }) => !isOptional || named.includes(id)) };
}

/** The fields of a chunk's parameters by name, except `operation`. */
export function entriesOf({ parameters }: ChunkContract): Record<string, v.GenericSchema> {
  const { entries } = parameters as unknown as { entries: Record<string, v.GenericSchema> };
  return Object.fromEntries(Object.entries(entries).filter(([name]) => name !== 'operation'));
}

/** The fields of a step that an operation may set by name. */
export function openEntries(step: Step): Record<string, v.GenericSchema> {
  return Object.fromEntries(Object.entries(entriesOf(step.chunk)).filter(([name]) => !Object.hasOwn(step.wires, name)));
}

/**
 * Every name an operation of this config may set: the pipeline's inputs, the fields of all steps and, if there are several steps, their
 * ids, each holding values for that step alone.
 */
export function fieldsOf({ steps }: Course): Set<string> {
  return new Set([
    ...steps.flatMap(({ wires }) => Object.values(wires).flatMap((wire) => (wire.from === 'input' ? [wire.name] : []))),
    ...steps.flatMap((step) => Object.keys(openEntries(step))),
    ...(steps.length > 1 ? steps.map(({ id }) => id) : []),
  ]);
}

/**
 * The entity type a step's output is recorded as: the last step's outputs are the run's results, earlier ones are named after their step.
 * @param isResult whether the step is the last one of the whole config
 */
export function entityTypeOf(step: string, { outputs }: ChunkMeta, output: string, isResult: boolean): string {
  if (isResult) {
    return outputs[output].entity ?? `output_${outputs[output].medium}`;
  }
  return Object.keys(outputs).length === 1 ? step : `${step}_${output}`;
}

/** A config's values for its steps, without those that fill placeholders. */
export function valuesOf({ parameters }: Config): Record<string, unknown> {
  return Object.fromEntries(Object.entries(parameters).filter(([name]) => !PLACE_NAME.test(name)));
}

function filled(place: unknown, { parameters }: Config): unknown {
  const open = typeof place === 'string' ? OPEN_PLACE.exec(place) : null;
  return open ? own(parameters, open[1]) : place;
}

function wireOf(value: unknown): Wire {
  const wire = typeof value === 'string' ? WIRE.exec(value) : null;
  if (!wire) {
    return { from: 'value', value };
  }
  const [, source, name] = wire;
  return source === 'input' ? { from: 'input', name } : { from: 'step', step: source, output: name };
}
