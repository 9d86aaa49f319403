/** The steps of a config, each with its chunk and where its parameters come from; and what an operation of that config may say. */
import type * as v from 'valibot';
import { OPEN_PLACE, PLACE_NAME, own } from './catalogue.ts';
import type { Catalogue, Config } from './catalogue.ts';
import type { ChunkContract, ChunkMeta } from './chunk.ts';

/** Where a parameter comes from that the operation does not set under its own name. */
export type Wire =
  { from: 'input'; name: string } | { from: 'step'; step: string; output: string } | { from: 'value'; value: unknown };

export interface Step {
  /** Unique within the pipeline: settled parameters, progress, resume points and entities go by it. */
  id: string;
  chunk: ChunkContract;
  /** By parameter. */
  wires: Record<string, Wire>;
}

/** A config as it runs. */
export interface Course {
  steps: Step[];
  /** The step that the config is about: the one in an open place, else the last. Its chunk says which operations the config can do. */
  main: Step;
  /** Kinds of operations that it can do. */
  operations: readonly string[];
}

const WIRE = /^\$([A-Za-z][A-Za-z0-9_]*)\.([A-Za-z][A-Za-z0-9_]*)$/;
const MAIN_PLACE = '{{OUTPUT_CHUNK}}';

/**
 * The steps of a config in order.
 * @returns a sentence where the catalogue contradicts itself, such as a chunk that does not exist: a fault of ours or of an added file
 */
export function courseOf(config: Config, { pipelines, chunks }: Catalogue): Course | string {
  const pipeline = own(pipelines, config.pipeline);
  if (!pipeline) {
    return `The config "${config.id}" names the pipeline "${config.pipeline}", which does not exist.`;
  }
  const steps: Step[] = [];
  for (const { id, chunk: place, in: wiring } of pipeline.steps) {
    const chunkId = String(filled(place, config));
    const chunk = own(chunks, chunkId);
    if (!chunk) {
      return `The pipeline "${pipeline.name}" needs the chunk "${chunkId}", which does not exist.`;
    }
    const wires: Step['wires'] = {};
    for (const [name, text] of Object.entries(wiring)) {
      const wire = wireOf(filled(text, config));
      const producer = wire.from === 'step' ? steps.find((step) => step.id === wire.step) : undefined;
      if (wire.from === 'step' && !own(producer?.chunk.meta.outputs ?? {}, wire.output)) {
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
    steps.push({ id, chunk, wires });
  }
  const main = steps.find((_, at) => pipeline.steps[at].chunk === MAIN_PLACE) ?? steps[steps.length - 1];
  const { fields, operations = main.chunk.meta.operations } = config;
  if (fields) {
    const closed = Object.keys(openEntries(main)).filter((name) => !fields.includes(name));
    closed.forEach((name) => (main.wires[name] = { from: 'value', value: undefined }));
  }
  return { steps, main, operations };
}

/** The fields of a chunk's parameters by name, `operation` apart. */
export function entriesOf({ parameters }: ChunkContract): Record<string, v.GenericSchema> {
  const { entries } = parameters as unknown as { entries: Record<string, v.GenericSchema> };
  return Object.fromEntries(Object.entries(entries).filter(([name]) => name !== 'operation'));
}

/** The fields of a step that an operation may set by their own names. */
export function openEntries(step: Step): Record<string, v.GenericSchema> {
  return Object.fromEntries(Object.entries(entriesOf(step.chunk)).filter(([name]) => !Object.hasOwn(step.wires, name)));
}

/**
 * Every name that an operation of this config may set: the pipeline's inputs, the fields of all steps, and, where there are several steps, their
 * ids, each of which holds values for that step alone.
 */
export function fieldsOf({ steps }: Course): Set<string> {
  return new Set([
    ...steps.flatMap(({ wires }) => Object.values(wires).flatMap((wire) => (wire.from === 'input' ? [wire.name] : []))),
    ...steps.flatMap((step) => Object.keys(openEntries(step))),
    ...(steps.length > 1 ? steps.map(({ id }) => id) : []),
  ]);
}

/**
 * The entity type that a step's output is recorded as: those of the last step are the run's results, those of earlier ones go by their step.
 * @param isResult whether the step is the last one of the whole config
 */
export function entityTypeOf(step: string, { outputs }: ChunkMeta, output: string, isResult: boolean): string {
  if (isResult) {
    return outputs[output].entity ?? `output_${outputs[output].medium}`;
  }
  return Object.keys(outputs).length === 1 ? step : `${step}_${output}`;
}

/** A config's values for its steps, without the names that fill open places. */
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
