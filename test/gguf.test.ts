/** GGUF files: headers, the values of every type against the `gguf` package, and what a graph receives. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { External, StoredTensor } from '../src/graphs/graph.ts';
import { BLOCK, bitsOnDevice } from '../src/graphs/quantisation.ts';
import { fromHalf } from '../src/weights/conversion.ts';
import { readRows } from '../src/weights/embedding_rows.ts';
import { architectureOf, ggufTensors, readGgufHeader, unreadableOf } from '../src/weights/gguf.ts';
import { repackBlocks, unpackBlocks } from '../src/weights/gguf_blocks.ts';
import { asFloats, dequantise } from '../src/weights/quantise.ts';
import { readSafetensorsHeader } from '../src/weights/safetensors.ts';
import { mount } from '../src/weights/virtual_file.ts';
import { ggufFile } from './gguf_file.ts';
import { readVirtual } from './onnx_node.ts';

const GOLDENS = join(import.meta.dirname, 'goldens', 'gguf');
const read = (name: string) => new Uint8Array(readFileSync(join(GOLDENS, name)));
const FILE = read('types.gguf');
const BLOB = new Blob([FILE]);

async function expectedNumbers(): Promise<Map<string, { shape: number[]; values: Float32Array }>> {
  const bytes = read('expected.safetensors');
  const { tensors } = await readSafetensorsHeader(new Blob([bytes]), 'expected.safetensors');
  return new Map(
    Array.from(tensors, ([name, { shape, offset, length }]) => [
      name,
      { shape, values: new Float32Array(bytes.slice(offset, offset + length).buffer) },
    ]),
  );
}

/** The bytes that the runtime reads from an external location. */
async function given(external: External, from = 0, until?: number): Promise<Uint8Array> {
  const [{ data }] = mount([external], new Map([['types.gguf', BLOB]]), 'jspi').files;
  return readVirtual((data as Blob).slice(from, until ?? (data as Blob).size));
}

function bits(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

describe('a file that the gguf package wrote', () => {
  test('is read: metadata, alignment, shapes, also those that ComfyUI’s tools keep beside', async () => {
    const header = await readGgufHeader(BLOB, 'types.gguf');
    expect(architectureOf(header)).toBe('flux');
    expect(header.metadata.get('general.alignment')).toBe(64);
    expect(header.metadata.get('general.large')).toBe(2 ** 40);
    expect(header.metadata.get('general.is_test')).toBe(true);
    expect(header.metadata.get('tokenizer.ggml.tokens')).toEqual(['<pad>', '</s>', '▁light', 'house']);
    expect(header.metadata.get('tokenizer.ggml.scores')).toEqual([0, 0, -2.5, -3.25]);
    const expected = await expectedNumbers();
    const tensors = ggufTensors(header, 'types.gguf');
    expect(new Map(tensors.map(({ name, shape }) => [name, shape]))).toEqual(
      new Map(Array.from(expected, ([name, { shape }]) => [name, shape])),
    );
    expect(tensors.every(({ offset }) => offset % 64 === 0)).toBe(true);
  });

  test('has every number that the package reads, to the bit, whole and in parts', async () => {
    const expected = await expectedNumbers();
    const tensors = ggufTensors(await readGgufHeader(BLOB, 'types.gguf'), 'types.gguf');
    expect(tensors).toHaveLength(16);
    for (const tensor of tensors) {
      const { values } = expected.get(tensor.name)!;
      const cast = { location: 'x', kind: 'cast', tensor, to: 'f32', length: 4 * values.length } as const;
      const whole = await given(cast);
      expect(bits(new Float32Array(whole.slice().buffer)), tensor.name).toEqual(bits(values));
      // A range that begins and ends within a block.
      const [from, until] = [5, values.length - 7];
      const part = await given(cast, 4 * from, 4 * until);
      expect(bits(new Float32Array(part.slice().buffer)), tensor.name).toEqual(bits(values.slice(from, until)));
    }
  });

  test('gives rows of a table of embeddings', async () => {
    const expected = (await expectedNumbers()).get('Q6_K.weight')!;
    const tensors = ggufTensors(await readGgufHeader(BLOB, 'types.gguf'), 'types.gguf');
    const table = tensors.find(({ name }) => name === 'Q6_K.weight') as StoredTensor;
    const rows = await readRows({ blob: () => Promise.resolve(BLOB) }, table, [2, 0]);
    const width = expected.shape[1];
    expect(bits(rows)).toEqual(
      bits(Float32Array.from([...expected.values.slice(2 * width), ...expected.values.slice(0, width)])),
    );
  });

  test.each([
    ['Q4_0', 4],
    ['Q8_0', 8],
  ] as const)('%s goes to MatMulNBits without a number changed', async (type, width) => {
    const { values, shape } = (await expectedNumbers()).get(`${type}.weight`)!;
    const tensors = ggufTensors(await readGgufHeader(BLOB, 'types.gguf'), 'types.gguf');
    const tensor = tensors.find(({ name }) => name === `${type}.weight`) as StoredTensor;
    expect(bitsOnDevice(tensor, shape, 'full')).toBe(width);
    const common = { location: 'x', kind: 'quantised', tensor, bits: width } as const;
    const data = await given({ ...common, part: 'data', type: 'f32', length: (values.length * width) / 8 });
    const scales = await given({ ...common, part: 'scales', type: 'f32', length: (values.length / BLOCK) * 4 });
    const numbers = dequantise(data, new Float32Array(scales.slice().buffer), width);
    expect(numbers).toEqual(values);
  });

  test('other types become blocks of 4 bits while they stream, and stay whole otherwise', async () => {
    const { values, shape } = (await expectedNumbers()).get('Q5_K.weight')!;
    const tensors = ggufTensors(await readGgufHeader(BLOB, 'types.gguf'), 'types.gguf');
    const found = tensors.find(({ name }) => name === 'Q5_K.weight') as StoredTensor;
    const tensor = { ...found, name: 'transformer_blocks.0.attn.to_q.weight' };
    expect(bitsOnDevice(tensor, shape, 'full')).toBeNull();
    expect(bitsOnDevice(tensor, [256, 256], 'q4')).toBe(4);
    const common = { location: 'x', kind: 'quantised', tensor, bits: 4 } as const;
    const data = await given({ ...common, part: 'data', type: 'f32', length: values.length / 2 });
    const scales = await given({ ...common, part: 'scales', type: 'f32', length: (values.length / BLOCK) * 4 });
    const numbers = dequantise(data, new Float32Array(scales.slice().buffer), 4);
    const error = (a: Float32Array, b?: Float32Array) =>
      Math.sqrt(a.reduce((sum, value, i) => sum + (value - (b?.[i] ?? 0)) ** 2, 0));
    expect(error(numbers, values) / error(values)).toBeLessThan(0.12);
  });
});

test('a block of Q4_0 is put as MatMulNBits wants it: neighbours share a byte', () => {
  const block = Uint8Array.from([0x00, 0x3c, ...Array.from({ length: 16 }, (_, i) => i | ((15 - i) << 4))]);
  const { data, scales } = repackBlocks(block, 'Q4_0');
  expect([...data]).toEqual([
    ...[0, 2, 4, 6, 8, 10, 12, 14].map((q) => q | ((q + 1) << 4)),
    ...[15, 13, 11, 9, 7, 5, 3, 1].map((q) => q | ((q - 1) << 4)),
  ]);
  expect(fromHalf(scales[0] | (scales[1] << 8))).toBe(1);
  expect(dequantise(data, asFloats(scales, 'F16'), 4)).toEqual(unpackBlocks(block, 'Q4_0'));
});

describe('refused in a sentence is', () => {
  const Q8_0 = 8;
  const tensor = (type: number, shape = [4, 32], bytes = 136) => ({
    name: 'img_in.weight',
    type,
    shape,
    bytes: new Uint8Array(bytes),
  });
  const header = (bytes: Uint8Array<ArrayBuffer>) => readGgufHeader(new Blob([bytes]), 'flux.gguf');

  test.each([
    ['a file that is none', ggufFile({ magic: 'GGML' }), /^The file flux.gguf is damaged: it does not begin as a GGUF/],
    ['an empty file', new Uint8Array(0), /^The file flux.gguf is damaged: it ends after 0 bytes/],
    [
      'an old version',
      ggufFile({ version: 1 }),
      /^flux.gguf is of version 1 of GGUF, and Darkroom reads versions 2 and 3;/,
    ],
    ['a big-endian file', ggufFile({ version: 0x03000000 }), /^flux.gguf is of the big-endian kind of GGUF/],
    [
      'a header that breaks off',
      ggufFile({ tensors: [tensor(Q8_0)] }).slice(0, 40),
      /^The file flux.gguf is damaged: it ends after 40 bytes, in the middle of its list of tensors; get it again\.$/,
    ],
    [
      'a tensor that breaks off',
      ggufFile({ tensors: [tensor(Q8_0)] }).slice(0, -64),
      /^The file flux.gguf is damaged: it ends after \d+ bytes, but "img_in.weight" reaches to \d+; get it again\.$/,
    ],
    [
      'a row that is no whole block',
      ggufFile({ tensors: [tensor(Q8_0, [4, 33])] }),
      /the rows of "img_in.weight" are no whole blocks of 32/,
    ],
    [
      'a name that occurs twice',
      ggufFile({ tensors: [tensor(Q8_0), tensor(Q8_0)] }),
      /^The file flux.gguf is damaged: it has the tensor "img_in.weight" twice/,
    ],
  ])('%s', async (_, bytes, message) => {
    await expect(header(bytes)).rejects.toThrow(message);
  });

  test('nothing for a type that is not known, which is named', async () => {
    const found = await header(ggufFile({ tensors: [tensor(99), { ...tensor(16), name: 'other' }] }));
    expect(unreadableOf(found, () => true)).toMatchObject({ name: 'img_in.weight', type: 'type 99' });
    expect(unreadableOf(found, (name) => name === 'other')?.type).toBe('IQ2_XXS');
    expect(ggufTensors(found, 'flux.gguf')).toEqual([]);
  });
});
