/** Weights in 8 bits with scales of their own, against torch, and packed ones that are refused. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { StoredTensor } from '../src/graphs/graph.ts';
import { readRows } from '../src/weights/embedding_rows.ts';
import { quantisingTransform } from '../src/weights/quantise.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength } from '../src/weights/safetensors.ts';
import { rowsOf } from '../src/weights/tensor_rows.ts';
import { readWeightFile } from '../src/weights/weight_file.ts';
import { filesOf } from './checkpoint_folder.ts';
import { readExternal, readTensors } from './onnx_node.ts';
import type { FileTensor } from './scaled_float8.ts';
import { fileOf } from './split_files.ts';

const FOLDER = join(import.meta.dirname, 'goldens', 'scaled_float8');
const bytes = new Uint8Array(readFileSync(join(FOLDER, 'weights.safetensors')));
const expected = readTensors(join(FOLDER, 'expected.safetensors'));
const PATH = 'weights.safetensors';
const files = filesOf('scaled', new Map([[PATH, bytes]]));

async function valuesOf(tensor: StoredTensor): Promise<Float32Array> {
  const length = 4 * tensor.shape.reduce((product, side) => product * side, 1);
  const external = { location: 'x', kind: 'cast', tensor, to: 'f32', length } as const;
  return new Float32Array((await readExternal(external, new Map([[PATH, new Blob([bytes])]]))).slice().buffer);
}

const file = await readWeightFile(files, PATH);
const { tensors } = file;
const tensorOf = (name: string) => tensors.find((each) => each.name === name) as StoredTensor;

test('only the weights are tensors of a network, and all can be read', () => {
  const layers = [...expected.keys()].map((name) => name.replace(/\.weight$/, ''));
  expect(tensors.map(({ name }) => name).sort()).toEqual(
    layers.flatMap((layer) => [`${layer}.bias`, `${layer}.weight`]).sort(),
  );
  file.requireReadable(() => true);
});

describe.each([...expected])('%s', (name, { data }) => {
  test('has the numbers of torch, to the bit', async () => {
    expect(await valuesOf(tensorOf(name))).toEqual(data);
  });

  test('also where a layer is some of its rows, and where it is a table of which rows are read', async () => {
    const { shape } = tensorOf(name);
    const last = rowsOf(tensorOf(name), { from: 2, to: 3, of: 3 }, 'last');
    expect(await valuesOf(last)).toEqual(data.slice((2 * data.length) / 3));
    const [five, one] = [5, 1].map((row) => [...data.slice(row * shape[1], (row + 1) * shape[1])]);
    expect([...(await readRows(files, tensorOf(name), [5, 1, 5]))]).toEqual([...five, ...one, ...five]);
  });
});

test('the library keeps such a file as it is, as it is in 8 bits already', () => {
  const length = safetensorsHeaderLength(bytes.subarray(0, 8), bytes.length, PATH);
  expect(quantisingTransform('q4')(PATH, bytes.subarray(0, 8 + length), bytes.length)).toBeNull();
  expect(parseSafetensorsHeader(bytes.subarray(8, 8 + length), bytes.length, PATH).tensors.size).toBeGreaterThan(0);
});

describe('refused in a sentence are weights', () => {
  const of = (dtype: string, shape: number[], length: number) =>
    ({ dtype, shape, bytes: new Uint8Array(length) }) as unknown as FileTensor;
  const float8 = of('F8_E4M3', [64, 64], 4096);

  test.each([
    ['in 8 bits with a scale for each block', { 'x.weight': float8, 'x.weight_scale': of('F32', [2, 2], 16) }],
    ['with inverse scales', { 'x.weight': float8, 'x.weight_scale_inv': of('F32', [1, 1], 4) }],
    ['of MXFP8', { 'x.weight': float8, 'x.weight_scale': of('F8_E8M0', [64, 2], 128) }],
  ] as [string, Record<string, FileTensor>][])('%s', async (_, contents) => {
    const own = filesOf('own', new Map([[PATH, fileOf(new Map(Object.entries(contents)))]]));
    const packed = await readWeightFile(own, PATH);
    expect(() => {
      packed.requireReadable(() => true);
    }).toThrow(
      /^weights\.safetensors has its weights in 8 bits with scales of their own \("x\.weight_scale(?:_inv)?"\), which Darkroom cannot run; get this checkpoint in F16, BF16 or F32\.$/,
    );
  });
});
