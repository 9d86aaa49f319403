/**
 * Whatever a ComfyUI server makes of a workflow. In: the name of one in `comfyui/`, whose mapping lists its parameters. Out: every file
 * its nodes saved, unchanged, by medium.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import type { ComfyFile, ComfyGraph, ComfyKind, ComfyNews, ComfyUi } from '../src/core/comfyui.ts';
import { editorSchema } from '../src/core/editor_workflow.ts';
import { StudioError, assert } from '../src/core/errors.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import {
  batchSize,
  drawnSeed,
  guidanceScale,
  image,
  images,
  integer,
  prompt,
  real,
  size,
  steps,
  strength,
} from '../src/core/parameters.ts';
import { MadeFile } from '../src/core/remote.ts';
import { fillWorkflow, graphSchema, mappingOf, mappingSchema, readGraph } from '../src/core/workflow.ts';
import type { Mapping } from '../src/core/workflow.ts';

export const meta = {
  id: 'comfyui_workflow',
  media: 'image',
  operations: ['image_generation', 'image_transform', 'audio_generation', 'video_generation'],
  needs: { gpu: false, remote: 'comfyui', standsBy: true },
  stages: [
    { id: 'queue', label: { en: 'Waiting', de: 'Wartet' } },
    { id: 'sample', label: { en: 'Developing', de: 'Entwickelt' }, unit: 'steps' },
  ],
  outputs: {
    images: { medium: 'image', many: true },
    animated: { medium: 'image', many: true, entity: 'output_animated' },
    videos: { medium: 'video', many: true },
    sounds: { medium: 'audio', many: true },
    texts: { medium: 'text', many: true },
  },
} as const satisfies ChunkMeta;

const leaving = { control: 'switch', group: 'more' } satisfies FieldMetadata;
const MODEL = 'model must be the name of a file on the server.';
const WORKFLOW = 'workflow must be the name of a workflow, or one of ComfyUI.';
const own = { control: 'workflow', group: 'main', label: { en: 'Workflow', de: 'Workflow' } } satisfies FieldMetadata;
const main = { group: 'main' } satisfies FieldMetadata;

export const parameters = v.strictObject({
  operation: v.picklist(meta.operations),
  /** One in `comfyui/`, or a person's own, in API format or as saved by the editor. */
  workflow: v.pipe(v.union([v.string(), v.record(v.string(), v.unknown())], WORKFLOW), v.metadata(own)),
  prompt: v.optional(prompt('prompt')),
  negative_prompt: v.optional(prompt('negative_prompt')),
  lyrics: v.optional(v.pipe(v.string('lyrics must be text.'), v.metadata(main))),
  image: v.optional(v.pipe(image('image'), v.metadata(main))),
  images: v.optional(v.pipe(images('images'), v.metadata(main))),
  width: v.optional(size('width')),
  height: v.optional(size('height')),
  seconds: v.optional(real('seconds', 1, 600)),
  frames: v.optional(integer('frames', 1, 1000)),
  steps: v.optional(steps(1, 150)),
  guidance_scale: v.optional(guidanceScale()),
  strength: v.optional(strength()),
  seed: drawnSeed(),
  batch_size: v.optional(batchSize()),
  model: v.optional(v.pipe(v.string(MODEL), v.nonEmpty(MODEL))),
  leave_nothing: v.optional(v.pipe(v.boolean('leave_nothing must be true or false.'), v.metadata(leaving))),
});

const files = import.meta.glob<unknown>('./comfyui/*.json', { import: 'default' });

/** By the medium its files are recorded as. */
const OUTPUT: Readonly<Partial<Record<ComfyKind, keyof typeof meta.outputs>>> = {
  image: 'images',
  animated: 'animated',
  video: 'videos',
  audio: 'sounds',
  text: 'texts',
};

const resumeSchema = v.nullable(v.object({ server: v.string(), promptId: v.string() }));

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  const { workflow, image: one, images: several = [], leave_nothing: leavesNothing = false, ...values } = input;
  context.progress('queue');
  // It asks the page which servers there are, and the workflow is read meanwhile.
  const opening = context.engine() as Promise<ComfyUi>;
  opening.catch(() => undefined);
  const [graph, mapping] =
    typeof workflow === 'string'
      ? await Promise.all([read(workflow, graphSchema), read(`${workflow}.mapping`, mappingSchema)])
      : await ownWorkflow(workflow, opening);
  const given = await Promise.all((one === undefined ? several : [one, ...several]).map(asBlob));
  const known = Object.entries(values).filter(
    ([name, value]) =>
      value !== undefined && name !== 'operation' && !(name === 'seed' && !('seed' in mapping.parameters)),
  );
  // Files that a person's own workflow names, and the operation does not bring, are on the server.
  const files = typeof workflow === 'string' ? mapping.files : mapping.files.slice(0, given.length || 0);
  const filled = fillWorkflow(graph, { ...mapping, files }, Object.fromEntries(known), given);
  return make(leavesNothing ? overSocket(filled.graph) : filled.graph, filled.files, opening, context);
}

/** The graph, changed to send pictures over the socket instead of saving them. */
function overSocket(graph: ComfyGraph): ComfyGraph {
  return Object.fromEntries(
    Object.entries(graph).map(([id, node]) => [
      id,
      node.class_type === 'SaveImage'
        ? { ...node, class_type: 'SaveImageWebsocket', inputs: { images: node.inputs.images } }
        : node,
    ]),
  );
}

async function ownWorkflow(workflow: unknown, engine: Promise<ComfyUi>): Promise<[ComfyGraph, Mapping]> {
  const graph = v.is(editorSchema, workflow) ? await (await engine).convert(workflow) : readGraph(workflow);
  return [graph, mappingOf(graph)];
}

/** Sends a graph, or finds the one an earlier attempt sent, and collects all its results. */
async function make(
  graph: ComfyGraph,
  given: Record<string, Blob>,
  opening: Promise<ComfyUi>,
  context: Context,
): Promise<Outputs> {
  const engine = await opening;
  let server = '';
  const news: ComfyNews = {
    onAccepted: (job) => {
      ({ server } = job);
      context.place(server, 0);
      context.keep(job);
    },
    onQueued: (ahead) => {
      context.place(server, ahead);
      context.progress('queue');
    },
    onProgress: (done, of) => context.progress('sample', done, of),
    onPreview: context.develop,
    onHandedOn: (reason) => {
      context.keep(null);
      context.notice(`Another server goes on with it: ${reason}`);
    },
  };
  const earlier = v.safeParse(resumeSchema, context.resume);
  const found = earlier.success && earlier.output ? await engine.rejoin(earlier.output, graph, news) : null;
  const { files: made, texts, server: maker, promptId } = found ?? (await engine.run(graph, given, news));
  const outputs: Record<keyof typeof meta.outputs, unknown[]> = {
    images: [],
    animated: [],
    videos: [],
    sounds: [],
    texts: [],
  };
  for (const file of made) {
    const output = OUTPUT[file.kind];
    if (output) {
      outputs[output].push(new MadeFile(file.file, originOf(file, maker, promptId)));
    } else {
      context.notice(`The server also made "${file.name?.filename ?? ''}", which is of no kind that is recorded here.`);
    }
  }
  outputs.texts.push(...texts.map(({ text }) => text));
  if (Object.values(outputs).every((list) => list.length === 0)) {
    throw new StudioError(
      'result_invalid',
      'The server made nothing that can be recorded here; see what the workflow saves.',
    );
  }
  return outputs;
}

function originOf({ node, name }: ComfyFile, server: string, promptId: string): Record<string, unknown> {
  return { made_by: { engine: 'comfyui', server, prompt_id: promptId, node, ...(name ? { file: name } : {}) } };
}

async function read<S extends v.GenericSchema>(name: string, schema: S): Promise<v.InferOutput<S>> {
  const load = Object.hasOwn(files, `./comfyui/${name}.json`) ? files[`./comfyui/${name}.json`] : undefined;
  if (!load) {
    throw new StudioError('invalid_operation', `There is no workflow "${name}"; choose another one.`);
  }
  const result = v.safeParse(schema, await load());
  assert(result.success, `the workflow "${name}" is well-formed`);
  return result.output;
}

async function asBlob(source: Blob | string): Promise<Blob> {
  return typeof source === 'string' ? (await fetch(source)).blob() : source;
}
