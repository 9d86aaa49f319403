/** Whole operations run in Node, as a job runs them, and the pictures that the reference made of the same. */
import 'fake-indexeddb/auto';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import * as stableDiffusion from '../chunks/output_image_stable_diffusion.ts';
import type { Context } from '../src/core/chunk.ts';
import type { CpuTensor, PixelImage } from '../src/core/media.ts';
import type { Model } from '../src/core/model.ts';
import { openModel, type ModelLora } from '../src/models/family.ts';
import type { CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength } from '../src/weights/safetensors.ts';
import { greatestDifference, relativeDifference } from './fidelity/fidelity.ts';
import { startNodeEngine } from './node_engine.ts';
import { pngPixels } from './png_pixels.ts';

export interface GoldenCase {
  name: string;
  operation: string;
  checkpoint: string;
  parameters: Record<string, unknown>;
}

export interface PictureDifferences {
  /** In units of the spread of the expected ones. */
  latents: number;
  /** Of a colour, of 255. */
  pixels: number;
}

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
  { name, operation, parameters }: GoldenCase,
  files: CheckpointFiles,
  loras: readonly ModelLora[] = [],
): Promise<PictureDifferences> {
  const model = await openModel(files, startNodeEngine().engine);
  await model.useLoras(loras);
  const { images, latents } = await paint(model, operation, parameters, join(root, name));
  await model.release();
  const expected = new Uint8Array(readFileSync(join(root, name, 'expected.safetensors')));
  return {
    latents: relativeDifference(latents.data, new Float32Array(tensor(expected, 'latents').buffer)),
    pixels: greatestDifference(
      images.flatMap(({ data }) => [...data.filter((_, i) => i % 4 !== 3)]),
      tensor(expected, 'pixels'),
    ),
  };
}

/**
 * Runs the chunk.
 * @param parameters pictures among them are names of files in `folder`
 */
export async function paint(
  model: Model,
  operation: string,
  parameters: Record<string, unknown>,
  folder: string,
): Promise<{ images: PixelImage[]; latents: CpuTensor }> {
  const recorded: Record<string, CpuTensor> = {};
  const context = {
    operation,
    checkpoint: '',
    models: { load: () => Promise.resolve(model) },
    readImage: (source: string) => Promise.resolve(pngPixels(readFileSync(join(folder, source.split(',')[1])))),
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
  const given = Object.fromEntries(
    Object.entries(parameters).map(([key, value]) => [
      key,
      typeof value === 'string' && value.endsWith('.png') ? `data:image/png;base64,${value}` : value,
    ]),
  );
  const input = v.parse(stableDiffusion.parameters, { operation, ...given });
  const { images } = (await stableDiffusion.execute(input, context)) as { images: PixelImage[] };
  return { images, latents: recorded.latents };
}

function tensor(file: Uint8Array, name: string): Uint8Array<ArrayBuffer> {
  const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, name);
  const entry = parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, name).tensors.get(name);
  if (!entry) {
    throw new Error(`There is no tensor "${name}".`);
  }
  return new Uint8Array(file.slice(entry.offset, entry.offset + entry.length));
}
