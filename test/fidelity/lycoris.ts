/** Changes of LyCORIS' kinds, merged while weights stream: test/goldens/lycoris.safetensors. */
import { readFileSync } from 'node:fs';
import type { StoredTensor, WeightIndex } from '../../src/graphs/graph.ts';
import { readLora, withLora } from '../../src/weights/lora.ts';
import { asFloats } from '../../src/weights/quantise.ts';
import {
  parseSafetensorsHeader,
  safetensorsHeaderLength,
  writeSafetensorsHeader,
  type NewTensor,
} from '../../src/weights/safetensors.ts';
import { goldenTensor } from '../golden_pictures.ts';
import { readExternal } from '../onnx_node.ts';
import { greatestDifference, type FidelityArea } from './fidelity.ts';

const FILE = 'lycoris.safetensors';
const STRENGTH = 0.7;
const bytes = new Uint8Array(readFileSync(new URL(`../goldens/${FILE}`, import.meta.url)));
const headerLength = safetensorsHeaderLength(bytes.subarray(0, 8), bytes.length, FILE);
const { tensors } = parseSafetensorsHeader(bytes.subarray(8, 8 + headerLength), bytes.length, FILE);

/** The layer's own weights, in the goldens' file. */
const own: WeightIndex = {
  get(name) {
    const entry = tensors.get(`weight.${name.replace(/^blocks\.|\.weight$/g, '')}`);
    return entry && ({ ...entry, file: FILE } as StoredTensor);
  },
  names: () => ['blocks.linear.weight', 'blocks.conv.weight'],
};

/** A file with a change of this kind alone, as LyCORIS writes it. */
function fileOf(kind: string, layer: string): Blob {
  const prefix = `${kind}.${layer}.`;
  const mine = [...tensors.values()].filter(({ name }) => name.startsWith(prefix));
  const entries = mine.map(({ name, dtype, shape, length }): [string, NewTensor] => [
    `lycoris_blocks_${layer}.${name.slice(prefix.length)}`,
    { dtype, shape: [...shape], length },
  ]);
  return new Blob([
    writeSafetensorsHeader(entries, {}),
    ...mine.map(({ offset, length }) => bytes.slice(offset, offset + length)),
  ]);
}

/** @param pieces how many ranges it is read in, which begin and end within rows */
async function merged(kind: string, layer: string, pieces: number): Promise<Float32Array> {
  const file = fileOf(kind, layer);
  const lora = await readLora(file, 'change', { unet: own });
  const tensor = withLora(own, lora.unet, STRENGTH).get(`blocks.${layer}.weight`) as StoredTensor;
  const blobs = new Map([
    [FILE, new Blob([bytes])],
    ['change', file],
  ]);
  const { length } = tensor;
  const bounds = Array.from({ length: pieces + 1 }, (_, i) => 4 * Math.round((i * length) / 4 / pieces));
  const whole = new Uint8Array(length);
  for (const [i, end] of bounds.slice(1).entries()) {
    whole.set(
      await readExternal({ location: 'w', kind: 'cast', tensor, to: 'f32', length }, blobs, bounds[i], end),
      bounds[i],
    );
  }
  return asFloats(whole, 'F32');
}

export const areas: FidelityArea[] = [
  {
    title: 'Merged weights of LyCORIS',
    about:
      "LyCORIS' own modules, and PEFT's DoRA, merged at strength 0.7 (`reference/lycoris_kinds.py`), and the same files merged here while a weight streams to the device: the greatest difference of a number, of weights around 0.1. Products of two matrices are compared with PEFT's in `test/quantise.test.ts`.",
    columns: ['kind', 'layer'],
    limit: 1e-6,
    cells: [...tensors.keys()]
      .filter((name) => name.startsWith('merged.'))
      .map((name) => {
        const [, kind, layer] = name.split('.');
        return {
          at: [kind, layer],
          difference: async () => {
            const expected = goldenTensor(bytes, name);
            const differences = [1, 7].map(async (pieces) =>
              greatestDifference(await merged(kind, layer, pieces), expected),
            );
            return Math.max(...(await Promise.all(differences)));
          },
        };
      }),
  },
];
