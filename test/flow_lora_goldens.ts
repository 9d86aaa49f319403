/** LoRAs of flow transformers merged here and by PEFT; see `reference/flow_loras.py`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { StoredTensor } from '../src/graphs/graph.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { readLora, withLora } from '../src/weights/lora.ts';
import { filesOf } from './checkpoint_folder.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { readExternal, readTensors } from './onnx_node.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const GOLDENS = join(import.meta.dirname, 'goldens', 'flow_loras');
const { scale, cases } = JSON.parse(readFileSync(join(GOLDENS, 'cases.json'), 'utf8')) as {
  scale: number;
  cases: Record<string, { checkpoint: string }>;
};
/** The one that the goldens hold of each weight, beside the row in the middle. */
const COLUMN = 3;

/** What they were merged with. */
export const flowLoraStrength = scale;
export const flowLoraCases = Object.entries(cases).map(([name, { checkpoint }]) => ({ name, checkpoint }));

export function flowLora(name: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(join(GOLDENS, `${name}.safetensors`)));
}

export interface MergedLora {
  leftOut: unknown[];
  /** Weights that it changes, and those that it should. */
  changed: string[];
  expected: string[];
  /** The greatest of a number; infinite where a weight is missing. */
  difference: number;
}

export async function mergedFlowLora(name: string): Promise<MergedLora> {
  const { checkpoint } = cases[name];
  const files = filesOf(checkpoint, weightlessContents(checkpoint));
  const { weights, files: paths } = await (await Checkpoint.open(files)).component('transformer');
  const blobs = new Map(await Promise.all(paths.map(async (path) => [path, await files.blob(path)] as const)));
  const file = new Blob([flowLora(name)]);
  blobs.set('lora.safetensors', file);
  const lora = await readLora(file, 'lora.safetensors', { transformer: weights });
  const merged = withLora(weights, lora.transformer, scale);
  const start = `${name}/`;
  const golden = [...readTensors(join(GOLDENS, 'expected.safetensors'))].filter(([key]) => key.startsWith(start));
  let difference = 0;
  for (const [key, { data }] of golden) {
    const tensor = merged.get(key.slice(start.length)) as StoredTensor;
    const [rows, columns] = tensor.shape;
    const all = await readExternal(
      { location: 'x', kind: 'cast', tensor, to: 'f32', length: 4 * rows * columns },
      blobs,
    );
    const values = new Float32Array(all.slice().buffer);
    const middle = Math.floor(rows / 2);
    const own = [
      ...Array.from({ length: rows }, (_, row) => values[row * columns + COLUMN]),
      ...values.subarray(middle * columns, (middle + 1) * columns),
    ];
    difference = Math.max(difference, greatestDifference(own, data));
  }
  return {
    leftOut: lora.leftOut,
    changed: [...lora.transformer.keys()].map((path) => `${path}.weight`).sort(),
    expected: golden.map(([key]) => key.slice(start.length)).sort(),
    difference,
  };
}
