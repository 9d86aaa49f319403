/** Whole operations, from the prompt to the pixels: every folder of test/goldens/pipelines, run in Node. */
import 'fake-indexeddb/auto';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import * as stableDiffusion from '../../chunks/output_image_stable_diffusion.ts';
import type { Context } from '../../src/core/chunk.ts';
import type { CpuTensor, PixelImage } from '../../src/core/media.ts';
import { openModel } from '../../src/models/family.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength } from '../../src/weights/safetensors.ts';
import { folderFiles } from '../checkpoint_folder.ts';
import { startNodeEngine } from '../node_engine.ts';
import { pngPixels } from '../png_pixels.ts';
import { greatestDifference, relativeDifference, type FidelityArea, type FidelityCell } from './fidelity.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const GOLDENS = join(ROOT, 'test', 'goldens', 'pipelines');

interface Case {
  operation: string;
  checkpoint: string;
  parameters: Record<string, unknown>;
}

interface Differences {
  latents: number;
  pixels: number;
}

const measured = new Map<string, Promise<Differences>>();

/** Both come from one run. */
function differencesOf(name: string): Promise<Differences> {
  const known = measured.get(name) ?? run(name);
  measured.set(name, known);
  return known;
}

async function run(name: string): Promise<Differences> {
  const { operation, checkpoint, parameters } = caseOf(name);
  const folder = checkpoint.startsWith('builtin:')
    ? join(ROOT, 'public', 'checkpoints', checkpoint.slice('builtin:'.length))
    : join(ROOT, 'test', 'checkpoints', checkpoint);
  const model = await openModel(folderFiles(folder), startNodeEngine().engine);
  const recorded: Record<string, CpuTensor> = {};
  const context = {
    operation,
    checkpoint: '',
    models: { load: () => Promise.resolve(model) },
    readImage: (file: string) => Promise.resolve(pngPixels(readFileSync(join(GOLDENS, name, file)))),
    wants: () => true,
    record: () => Promise.resolve(''),
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
  } as unknown as Context;
  const files = Object.fromEntries(
    ['image', 'mask_image'].flatMap((key) => (key in parameters ? [[key, 'data:image/png;base64,']] : [])),
  );
  const input = v.parse(stableDiffusion.parameters, { operation, ...parameters, ...files });
  const { images } = (await stableDiffusion.execute({ ...input, ...pictures(parameters) }, context)) as {
    images: PixelImage[];
  };
  await model.release();
  const expected = new Uint8Array(readFileSync(join(GOLDENS, name, 'expected.safetensors')));
  return {
    latents: relativeDifference(recorded.latents.data, new Float32Array(tensor(expected, 'latents').buffer)),
    pixels: greatestDifference(
      images.flatMap(({ data }) => [...data.filter((_, i) => i % 4 !== 3)]),
      tensor(expected, 'pixels'),
    ),
  };
}

/** Of an operation's pictures their file names, which `readImage` reads. */
function pictures(parameters: Record<string, unknown>): { image?: string; mask_image?: string } {
  const { image, mask_image } = parameters as { image?: string; mask_image?: string };
  return { ...(image !== undefined && { image }), ...(mask_image !== undefined && { mask_image }) };
}

function caseOf(name: string): Case {
  const json = (file: string) => JSON.parse(readFileSync(join(GOLDENS, name, file), 'utf8')) as Case;
  return { ...json('operation.json'), checkpoint: json('case.json').checkpoint };
}

function tensor(file: Uint8Array, name: string): Uint8Array<ArrayBuffer> {
  const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, name);
  const entry = parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, name).tensors.get(name);
  if (!entry) {
    throw new Error(`There is no tensor "${name}".`);
  }
  return new Uint8Array(file.slice(entry.offset, entry.offset + entry.length));
}

const names = readdirSync(GOLDENS).sort();

function cellsOf(measure: (differences: Differences) => number): FidelityCell[] {
  return names.map((name) => {
    const { operation, checkpoint, parameters } = caseOf(name);
    const { sampler = 'its own', schedule = 'its own' } = parameters as { sampler?: string; schedule?: string };
    return {
      at: [name, checkpoint, operation, sampler, schedule],
      difference: async () => measure(await differencesOf(name)),
    };
  });
}

const columns = ['case', 'checkpoint', 'operation', 'sampler', 'schedule'];

export const areas: FidelityArea[] = [
  {
    title: 'Whole pictures: latents',
    about:
      "Against diffusers on the CPU in f32 (`reference/pipelines.py`), in Node's ONNX Runtime: what the sampler leaves, in units of the spread of the expected latents. `e2e/fidelity.spec.ts` holds the same cases to the same numbers in the browser, on WebGPU and on wasm.",
    columns,
    limit: 1e-3,
    cells: cellsOf(({ latents }) => latents),
  },
  {
    title: 'Whole pictures: pixels',
    about: 'The same runs, decoded: the greatest difference of a colour, of 255.',
    columns,
    limit: 2,
    cells: cellsOf(({ pixels }) => pixels),
  },
];
