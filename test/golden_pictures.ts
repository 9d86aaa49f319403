/** Runs whole operations in Node the way a job does, for comparison with the reference's pictures. */
import 'fake-indexeddb/auto';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import type { Context, Outputs } from '../src/core/chunk.ts';
import type { BlockMode } from '../src/core/job.ts';
import type { CpuTensor, PixelImage } from '../src/core/media.ts';
import type { Model } from '../src/core/model.ts';
import { parseOperation } from '../src/core/operation.ts';
import { plan, type PlannedStep } from '../src/core/plan.ts';
import { asAsked, courseOf } from '../src/core/steps.ts';
import type { VideoWriter } from '../src/core/video.ts';
import {
  asLatentUpsampler,
  asUpscaler,
  openCheckpoint,
  openModel,
  type ModelAdditions,
  type ModelLora,
} from '../src/models/family.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import type { CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength } from '../src/weights/safetensors.ts';
import { greatestDifference, relativeDifference } from './fidelity/fidelity.ts';
import { asExpected } from './golden_pixels.ts';
import { filesOf, folderFiles } from './checkpoint_folder.ts';
import { weightlessContents } from './weightless_checkpoints.ts';
import { startNodeEngine } from './node_engine.ts';
import { pngPixels } from '../src/package/node_picture.ts';

export interface GoldenCase {
  name: string;
  operation: string;
  /** The config, which names the chunk. */
  config: string;
  checkpoint: string;
  parameters: Record<string, unknown>;
}

export interface PictureDifferences {
  /** Relative to the spread of the expected ones. */
  latents: number;
  /** Of a colour, of 255. */
  pixels: number;
}

interface Chunk {
  parameters: v.GenericSchema;
  execute(input: unknown, context: Context): Promise<Outputs>;
}

const chunks = import.meta.glob<Chunk>(['../chunks/output_{image,video}_*.ts', '../chunks/try_on_pictures.ts'], {
  eager: true,
});

const BUILTIN = join(import.meta.dirname, '..', 'public', 'checkpoints');

/** The cases of a folder of goldens, in order. */
export function goldenCases(root: string): GoldenCase[] {
  return readdirSync(root)
    .sort()
    .map((name) => {
      const json = (file: string) => JSON.parse(readFileSync(join(root, name, file), 'utf8')) as GoldenCase;
      return { ...json('operation.json'), checkpoint: json('case.json').checkpoint, name };
    });
}

/** Runs a case of {@link goldenCases} with the files of its checkpoint. */
export async function differencesFrom(
  root: string,
  one: GoldenCase,
  files: CheckpointFiles,
  {
    loras = [],
    additions = {},
    blocks,
  }: { loras?: readonly ModelLora[]; additions?: Partial<ModelAdditions>; blocks?: BlockMode } = {},
): Promise<PictureDifferences> {
  const model = await openModel(files, startNodeEngine(undefined, blocks).engine);
  await model.useLoras(loras);
  await model.useAdditions?.(additions);
  const { name } = one;
  const { images, latents } = await paint(model, one, join(root, name));
  await model.release();
  const expected = new Uint8Array(readFileSync(join(root, name, 'expected.safetensors')));
  const pixels = tensorBytes(expected, 'pixels');
  return {
    latents: relativeDifference(latents.data, goldenTensor(expected, 'latents')),
    pixels: greatestDifference(
      asExpected(
        images.map(({ data }) => data),
        pixels.length,
      ),
      pixels,
    ),
  };
}

/**
 * Runs the chunk.
 * @param folder holds the files that are named where parameters are pictures
 * @param more of the context
 * @returns its pictures, or the frames of its video
 */
export async function paint(
  model: Model,
  { operation, config, parameters }: Omit<GoldenCase, 'name' | 'checkpoint'>,
  folder: string,
  more: Partial<Context> = {},
): Promise<{ images: PixelImage[]; latents: CpuTensor }> {
  const recorded: Record<string, CpuTensor> = {};
  /** Pictures of earlier steps, which have no files here. */
  const made: PixelImage[] = [];
  const frames: PixelImage[] = [];
  const writer: VideoWriter = {
    notice: null,
    add: (frame) => {
      frames.push(frame);
      return Promise.resolve();
    },
    finish: () => Promise.resolve({ file: new Blob([]), width: 0, height: 0, seconds: 0 }),
    discard: () => Promise.resolve(),
  };
  const context = {
    operation,
    checkpoint: '',
    models: {
      load: () => Promise.resolve(model),
      loadLatentUpsampler: async (ref: string) => {
        const name = ref.replace('import:', '');
        return asLatentUpsampler(
          await openCheckpoint(filesOf(name, weightlessContents(name)), startNodeEngine().engine),
        );
      },
      loadUpscaler: async (ref: string) =>
        asUpscaler(
          await openCheckpoint(folderFiles(join(BUILTIN, ref.replace('builtin:', ''))), startNodeEngine().engine),
        ),
    },
    readImage: (source: string) => {
      const [, name] = source.split(',');
      return Promise.resolve(name in made ? made[Number(name)] : pngPixels(readFileSync(join(folder, name))));
    },
    wants: () => true,
    record: () => Promise.resolve(''),
    recordBeside: () => undefined,
    writeVideo: () => Promise.resolve(writer),
    recordTensors: (type: string, tensors: Record<string, CpuTensor>) => {
      Object.assign(recorded, tensors);
      return Promise.resolve(type);
    },
    progress: () => undefined,
    notice: () => undefined,
    keep: () => undefined,
    preview: () => null,
    resume: null,
    signal: new AbortController().signal,
    ...more,
  } as unknown as Context;
  const pictures = (value: unknown): unknown =>
    typeof value === 'string' && value.endsWith('.png') ? `data:image/png;base64,${value}` : value;
  const given = Object.fromEntries(
    Object.entries(parameters).map(([key, value]) => [
      key,
      Array.isArray(value) ? value.map(pictures) : pictures(value),
    ]),
  );
  let outputs: Outputs = {};
  for (const step of stepsOf({ operation, config, parameters: given })) {
    const chunk = chunks[`../chunks/${step.chunk}.ts`];
    const wired = Object.entries(step.wired).map(([name, { output }]) => [name, outputs[output]] as const);
    const values = { ...step.parameters, ...Object.fromEntries(wired), operation: step.operation };
    const input: unknown = v.parse(chunk.parameters, values);
    outputs = await chunk.execute(input, context);
    if (step.id !== 'output') {
      outputs = Object.fromEntries(Object.entries(outputs).map(([name, value]) => [name, asParameter(value, made)]));
    }
  }
  const { images = frames } = outputs as { images?: PixelImage[] };
  return { images, latents: recorded.latents };
}

/** A config of one step takes its operation as it stands, without the config's own values. */
function stepsOf({
  operation,
  config,
  parameters,
}: Omit<GoldenCase, 'name' | 'checkpoint'>): Pick<
  PlannedStep,
  'id' | 'chunk' | 'operation' | 'parameters' | 'wired'
>[] {
  const course = courseOf(catalogue.configs[config], catalogue);
  if (typeof course === 'string') {
    throw new Error(course);
  }
  const { main, steps } = asAsked(course, []);
  if (steps.length === 1) {
    return [{ id: 'output', chunk: main.chunk.meta.id, operation, parameters, wired: {} }];
  }
  const planned = plan(
    parseOperation({ operation, config, parameters, checkpoint: '' }),
    catalogue,
    () => undefined,
    null,
  );
  if (!planned.ok) {
    throw new Error(planned.reasons[0].message);
  }
  return planned.plan.steps;
}

/** Pictures have no files here, so their numbers stand for them. */
function asParameter(value: unknown, made: PixelImage[]): unknown {
  return Array.isArray(value)
    ? value.map((picture: PixelImage) => `data:image/png;base64,${made.push(picture) - 1}`)
    : value;
}

/** An f32 tensor of a safetensors file. */
export function goldenTensor(file: Uint8Array, name: string): Float32Array {
  return new Float32Array(tensorBytes(file, name).buffer);
}

/** One of whole numbers. */
export function goldenTokens(file: Uint8Array, name: string): Int32Array {
  return new Int32Array(tensorBytes(file, name).buffer);
}

/** Of any type, as it lies in a safetensors file. */
export function tensorBytes(file: Uint8Array, name: string): Uint8Array<ArrayBuffer> {
  const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, name);
  const entry = parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, name).tensors.get(name);
  if (!entry) {
    throw new Error(`There is no tensor "${name}".`);
  }
  return new Uint8Array(file.slice(entry.offset, entry.offset + entry.length));
}
