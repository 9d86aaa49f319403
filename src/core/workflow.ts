/** Workflows as data: a graph in ComfyUI's API format, and a mapping from parameters to its inputs. */
import * as v from 'valibot';
import type { ComfyGraph } from './comfyui.ts';
import { StudioError } from './errors.ts';

/** `node.input`, by the graph's names. */
const place = v.pipe(v.string(), v.regex(/^[^.]+\..+$/));

export const graphSchema: v.GenericSchema<ComfyGraph> = v.record(
  v.string(),
  v.object({
    class_type: v.string(),
    inputs: v.record(v.string(), v.unknown()),
    _meta: v.optional(v.object({ title: v.optional(v.string()) })),
  }),
);

export const mappingSchema = v.strictObject({
  /** The inputs that take a parameter, by its name. */
  parameters: v.record(v.string(), v.array(place)),
  /** The inputs that take given files, in order, and the nodes to remove if there are fewer. */
  files: v.optional(
    v.array(v.strictObject({ place, kind: v.picklist(['image', 'audio', 'video']), nodes: v.array(v.string()) })),
    () => [],
  ),
});

export type Mapping = v.InferOutput<typeof mappingSchema>;

export interface Filled {
  graph: ComfyGraph;
  /** By place. */
  files: Record<string, Blob>;
}

/**
 * The graph with these values filled in; the rest stays as it is.
 * @param values by parameter
 * @throws StudioError `invalid_operation` for a value or a file that the workflow cannot take, or if its first file is missing
 */
export function fillWorkflow(
  workflow: ComfyGraph,
  { parameters, files: places }: Mapping,
  values: Readonly<Record<string, unknown>>,
  given: readonly Blob[] = [],
): Filled {
  const graph = JSON.parse(JSON.stringify(workflow)) as ComfyGraph;
  for (const [name, value] of Object.entries(values)) {
    const taken = Object.hasOwn(parameters, name) ? parameters[name] : null;
    if (!taken) {
      throw new StudioError(
        'invalid_operation',
        `This workflow takes no ${name}; it takes ${Object.keys(parameters).join(', ')}.`,
      );
    }
    taken.forEach((at) => put(graph, at, value));
  }
  if (given.length > places.length || (given.length === 0 && places.length > 0)) {
    throw new StudioError(
      'invalid_operation',
      places.length === 0
        ? 'This workflow takes no pictures or other files; remove them.'
        : `This workflow takes ${places.length === 1 ? 'one file' : `one to ${places.length} files`}; it was given ${given.length}.`,
    );
  }
  places.slice(given.length).forEach(({ nodes }) => nodes.forEach((node) => remove(graph, node)));
  return { graph, files: Object.fromEntries(given.map((file, at) => [places[at].place, file])) };
}

/** @throws StudioError `internal` for an input that the graph does not have */
export function put(graph: ComfyGraph, at: string, value: unknown): void {
  const [node, input] = [at.slice(0, at.indexOf('.')), at.slice(at.indexOf('.') + 1)];
  if (!Object.hasOwn(graph, node)) {
    throw new StudioError('internal', `The workflow has no node "${node}".`);
  }
  // A list would be a link.
  graph[node].inputs[input] = Array.isArray(value) ? { __value__: value } : value;
}

/** Removes a node and every input it feeds. */
function remove(graph: ComfyGraph, node: string): void {
  delete graph[node];
  for (const { inputs } of Object.values(graph)) {
    for (const [name, value] of Object.entries(inputs)) {
      if (Array.isArray(value) && value[0] === node) {
        delete inputs[name];
      }
    }
  }
}

/** A literal value of a graph that a person may want to change. */
export interface GraphField {
  /** `node.input` */
  place: string;
  /** The node's title and the input's name. */
  label: string;
  kind: 'text' | 'number' | 'choice';
  value: string | number;
}

const SEED = /^(noise_)?seed$/;
const WORDS = /^(text(_[gl])?|prompt|tags|lyrics|string|value|clip_l|t5xxl)$/;
const NUMBERS =
  /^(width|height|length|steps|cfg|guidance|denoise|batch_size|seconds|fps|duration|shift|strength_model)$/;
const FILES = /\.(safetensors|sft|ckpt|pt|pth|gguf)$/i;

/** Nodes that load a given file, by class, with the input that takes its name. */
const LOADERS: Readonly<Partial<Record<string, [input: string, kind: 'image' | 'audio' | 'video']>>> = {
  LoadImage: ['image', 'image'],
  LoadImageMask: ['image', 'image'],
  LoadAudio: ['audio', 'audio'],
  LoadVideo: ['file', 'video'],
};

/** The inputs of a person's own workflow that take seeds and files; everything else stays as it is. */
export function mappingOf(graph: ComfyGraph): Mapping {
  const places = Object.entries(graph).flatMap(([node, { inputs }]) =>
    Object.keys(inputs).map((name) => ({ node, name })),
  );
  const seeds = places
    .filter(({ node, name }) => SEED.test(name) && !Array.isArray(graph[node].inputs[name]))
    .map(({ node, name }) => `${node}.${name}`);
  const files = Object.entries(graph).flatMap(([node, { class_type: type }]) => {
    const loader = Object.hasOwn(LOADERS, type) ? LOADERS[type] : undefined;
    return loader ? [{ place: `${node}.${loader[0]}`, kind: loader[1], nodes: [] }] : [];
  });
  return { parameters: seeds.length > 0 ? { seed: seeds } : {}, files };
}

/** Text, sizes, counts and model files, in node order; seeds and given files have their own fields. */
export function fieldsOfGraph(graph: ComfyGraph): GraphField[] {
  return Object.entries(graph).flatMap(([node, { class_type: type, inputs, _meta: meta }]) =>
    Object.entries(inputs).flatMap(([name, value]): GraphField[] => {
      const kind =
        typeof value === 'string'
          ? WORDS.test(name)
            ? 'text'
            : FILES.test(value)
              ? 'choice'
              : null
          : typeof value === 'number' && NUMBERS.test(name)
            ? 'number'
            : null;
      return kind === null
        ? []
        : [
            {
              place: `${node}.${name}`,
              label: `${meta?.title ?? type}: ${name}`,
              kind,
              value: value as string | number,
            },
          ];
    }),
  );
}

/**
 * The graph in a JSON file, as ComfyUI exports it for its API, or wrapped the way some browser extensions do.
 * @throws StudioError `invalid_operation` if it is none
 */
export function readGraph(json: unknown): ComfyGraph {
  const wrapped = typeof json === 'object' && json !== null ? (json as { prompt?: unknown; output?: unknown }) : {};
  for (const candidate of [json, wrapped.prompt, wrapped.output]) {
    const result = v.safeParse(graphSchema, candidate);
    if (result.success && Object.keys(result.output).length > 0) {
      return result.output;
    }
  }
  throw new StudioError(
    'invalid_operation',
    'This file holds no ComfyUI workflow; choose one that ComfyUI saved or exported, or a picture that it made.',
  );
}
