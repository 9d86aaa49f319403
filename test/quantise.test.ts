/** Block-quantised weights: bytes, stored files, cost in quality; LoRAs merged while they stream. */
import { readFileSync } from 'node:fs';
import * as ortWeb from 'onnxruntime-web/wasm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BUILTIN_CHECKPOINTS } from '../src/core/builtin_checkpoints.ts';
import * as clipText from '../src/graphs/clip_text.ts';
import type { Bits, External, Graph, StoredTensor, WeightIndex } from '../src/graphs/graph.ts';
import { LayerWriter } from '../src/graphs/layers.ts';
import { BLOCK, quantisedBits } from '../src/graphs/quantisation.ts';
import * as unet2d from '../src/graphs/unet2d_condition.ts';
import { noiseTable, type TableSettings } from '../src/predictions/noise_table.ts';
import { convert, fromHalf } from '../src/weights/conversion.ts';
import { readLora, withLora } from '../src/weights/lora.ts';
import {
  asFloats,
  dequantise,
  quantise,
  quantisingTransform,
  storedTensors,
  transformMakers,
} from '../src/weights/quantise.ts';
import { readSafetensorsHeader, writeSafetensors, writeSafetensorsHeader } from '../src/weights/safetensors.ts';
import {
  CheckpointFolder,
  CpuNetwork,
  parseModel,
  readExternal,
  readTensors,
  run,
  type NetworkWeights,
} from './onnx_node.ts';

const HERE = import.meta.dirname;
const CHECKPOINTS = {
  'tiny-sd15': `${HERE}/checkpoints/tiny-sd15`,
  'tiny-sd21': `${HERE}/checkpoints/tiny-sd21`,
  builtin: `${HERE}/../public/checkpoints/${BUILTIN_CHECKPOINTS[0].id}`,
};

/** Numbers in (−1, 1), the same in every run (mulberry32). */
function noise(count: number, seed = 1): Float32Array<ArrayBuffer> {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) / 2 ** 31;
  });
}

/** Normally distributed numbers. */
function normalNoise(count: number, seed: number): Float32Array<ArrayBuffer> {
  const uniform = noise(2 * count, seed);
  return Float32Array.from(
    { length: count },
    (_, i) => Math.sqrt(-2 * Math.log(Math.abs(uniform[i]))) * Math.cos(Math.PI * uniform[count + i]),
  );
}

/** Relative error, L2. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  expect(actual.length).toBe(expected.length);
  const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  return norm(actual.map((value, index) => value - expected[index])) / norm(expected);
}

function restored(values: Float32Array, bits: Bits): Float32Array<ArrayBuffer> {
  const { data, scales } = quantise(values, bits);
  return dequantise(data, Float32Array.from(scales, fromHalf), bits);
}

describe('blocks', () => {
  test.each([8, 4] as const)('%i bits: what lies on the levels comes back as it was', (bits) => {
    const half = 2 ** (bits - 1);
    // A power of two as the scale, and the lowest level used.
    const values = Float32Array.from(
      { length: 4 * BLOCK },
      (_, i) => 0.125 * (i % BLOCK === 7 ? -half : (i % (2 * half)) - half),
    );
    expect(restored(values, bits)).toEqual(values);
    expect(restored(new Float32Array(BLOCK), bits)).toEqual(new Float32Array(BLOCK));
  });

  test('the greatest magnitude is at the lowest level, whatever its sign; the lower half of a byte comes first', () => {
    const values = new Float32Array(BLOCK).fill(1).fill(8, 3, 4).fill(-4, 4, 5);
    const { data, scales } = quantise(values, 4);
    expect(fromHalf(scales[0])).toBe(-1);
    expect([...data.subarray(0, 4)]).toEqual([0x77, 0x07, 0x7c, 0x77]);
    expect([...quantise(values, 8).data.subarray(2, 5)]).toEqual([112, 0, 192]);
  });

  test.each([
    [8, 0.0055],
    [4, 0.085],
  ] as const)('%i bits: of normal weights at most %f is lost', (bits, limit) => {
    const normal = normalNoise(2 ** 15, 3).map((value) => 0.02 * value);
    expect(relativeError(restored(normal, bits), normal)).toBeLessThan(limit);
  });

  test('a block with infinity, NaN or what no scale can reach cannot pass for a good one', () => {
    for (const bad of [Infinity, -Infinity, NaN, 1e8]) {
      const values = noise(2 * BLOCK);
      values[5] = bad;
      const back = restored(values, bad > 0 ? 4 : 8);
      expect(back.subarray(0, BLOCK).every(Number.isNaN)).toBe(true);
      expect(back.subarray(BLOCK).every(Number.isFinite)).toBe(true);
    }
  });

  test('which weights are quantised is a matter of their kind and size', () => {
    const block = 'down_blocks.1.attentions.0.transformer_blocks.0';
    const cases: [string, number[], Bits | null, Bits | null][] = [
      [`${block}.attn1.to_q.weight`, [320, 320], 8, 4],
      [`${block}.attn2.to_out.0.weight`, [320, 320], 8, 4],
      [`${block}.ff.net.0.proj.weight`, [2560, 320], 8, 4],
      ['mid_block.attentions.0.proj_in.weight', [1280, 1280, 1, 1], 8, 8],
      ['up_blocks.0.resnets.0.conv_shortcut.weight', [1280, 2560, 1, 1], 8, 8],
      ['up_blocks.0.resnets.0.time_emb_proj.weight', [1280, 1280], 8, 4],
      ['text_model.encoder.layers.3.mlp.fc1.weight', [3072, 768], 8, 8],
      ['encoder.layers.3.self_attn.out_proj.weight', [768, 768], 8, 8],
      // Small, of an odd width, or of another kind.
      [`${block}.attn1.to_q.weight`, [64, 64], 8, 8],
      [`${block}.attn1.to_q.weight`, [32, 32], null, null],
      [`${block}.attn1.to_q.weight`, [320, 330], null, null],
      [`${block}.attn1.to_q.bias`, [320, 320], null, null],
      [`${block}.norm1.weight`, [320], null, null],
      ['up_blocks.0.resnets.0.conv1.weight', [1280, 1280, 3, 3], null, null],
      ['conv_out.weight', [4, 320, 3, 3], null, null],
      ['time_embedding.linear_1.weight', [1280, 320], null, null],
      ['text_model.embeddings.token_embedding.weight', [49408, 768], null, null],
      ['decoder.mid_block.attentions.0.to_q.weight', [512, 512], null, null],
      ['decoder.up_blocks.2.resnets.0.conv_shortcut.weight', [256, 512, 1, 1], null, null],
    ];
    expect(
      cases.map(([name, shape]) => [name, shape, quantisedBits(name, shape, 'q8'), quantisedBits(name, shape, 'q4')]),
    ).toEqual(cases);
    expect(quantisedBits(cases[0][0], [320, 320], 'full')).toBeNull();
  });
});

const FILE = 'diffusion_pytorch_model.safetensors';

/** What the library makes of a file. */
function store(bytes: Uint8Array<ArrayBuffer>, variant: 'q8' | 'q4', longestPiece?: number) {
  const header = bytes.slice(0, 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true)));
  const transform = (longestPiece ? quantisingTransform(variant, longestPiece) : transformMakers[variant])(
    FILE,
    header,
    bytes.length,
  );
  if (!transform) {
    return null;
  }
  const pieces = transform.cuts.map((end, n) =>
    transform.apply(n, bytes.slice(n > 0 ? transform.cuts[n - 1] : 0, end)),
  );
  const file = new Blob(
    transform.layout.map((part) => ('bytes' in part ? part.bytes : pieces[part.piece].subarray(part.begin, part.end))),
  );
  return { transform, pieces, file };
}

/** A stored file opened as the engine does. */
async function opened(file: Blob): Promise<NetworkWeights> {
  const tensors = storedTensors(await readSafetensorsHeader(file, FILE), FILE);
  const index = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  return { get: (name) => index.get(name), names: () => index.keys(), blobs: new Map([[FILE, file]]) };
}

const bytesOf = async (blob: Blob) => new Uint8Array(await blob.arrayBuffer());

function original(checkpoint: keyof typeof CHECKPOINTS): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(`${CHECKPOINTS[checkpoint]}/unet/${FILE}`));
}

describe('stored files', () => {
  const source = original('tiny-sd15');

  test.each(['q8', 'q4'] as const)('%s: pieces cut anywhere give the same file', async (variant) => {
    const whole = store(source, variant);
    expect(whole?.transform.cuts).toEqual([source.length]);
    const expected = await bytesOf(whole?.file ?? new Blob());
    for (const longestPiece of [200_000, 65_537, 10_007, 4096]) {
      const stored = store(source, variant, longestPiece);
      const { cuts, layout } = stored?.transform ?? { cuts: [], layout: [] };
      expect(cuts.length).toBeGreaterThan(source.length / longestPiece - 1);
      cuts.forEach((end, n) => {
        expect(end - (cuts[n - 1] ?? 0)).toBeGreaterThan(0);
        expect(end - (cuts[n - 1] ?? 0)).toBeLessThanOrEqual(longestPiece);
      });
      expect(cuts.at(-1)).toBe(source.length);
      expect(Buffer.compare(await bytesOf(stored?.file ?? new Blob()), expected)).toBe(0);
      // Every stored byte of a piece is used once.
      const used = layout.reduce((sum, part) => sum + ('bytes' in part ? 0 : part.end - part.begin), 0);
      expect(used).toBe(stored?.pieces.reduce((sum, piece) => sum + piece.length, 0));
    }
  });

  test('it is a safetensors file with the names that the docstring says, the rest unchanged', async () => {
    const file = store(source, 'q4')?.file ?? new Blob();
    const { tensors, metadata } = await readSafetensorsHeader(file, FILE);
    const before = await readSafetensorsHeader(new Blob([source]), FILE);
    expect(metadata.get('darkroom_quantised')).toBe('q4');
    expect(metadata.get('format')).toBe(before.metadata.get('format'));
    const content = await bytesOf(file);
    const names: string[] = [];
    for (const { name, shape, offset, length, dtype } of before.tensors.values()) {
      const bits = quantisedBits(name, shape, 'q4');
      const old = source.subarray(offset, offset + length);
      if (bits === null) {
        const kept = tensors.get(name);
        expect(kept).toMatchObject({ shape, dtype, length });
        expect(Buffer.compare(content.subarray(kept?.offset ?? 0, (kept?.offset ?? 0) + length), old)).toBe(0);
        names.push(name);
      } else {
        const blocks = quantise(asFloats(old, 'F32'), bits);
        const [n, k] = [shape[0], shape[1] / BLOCK];
        const data = tensors.get(`${name}.q${bits}`);
        const scales = tensors.get(`${name}.scales`);
        expect(data).toMatchObject({ dtype: 'U8', shape: [n, k, 4 * bits], length: blocks.data.length });
        expect(scales).toMatchObject({ dtype: 'F16', shape: [n, k] });
        expect(Buffer.compare(content.subarray(data?.offset ?? 0).subarray(0, data?.length), blocks.data)).toBe(0);
        names.push(`${name}.q${bits}`, `${name}.scales`);
      }
    }
    expect([...tensors.keys()]).toEqual(names);
    expect(names.filter((name) => name.endsWith('.q4')).length).toBeGreaterThan(0);
    expect(names.filter((name) => name.endsWith('.q8')).length).toBeGreaterThan(10);
  });

  test('files in which nothing is to be quantised stay as they are', async () => {
    expect(store(writeSafetensors([['conv_in.weight', { dims: [4, 4], data: noise(16) }]]), 'q4')).toBeNull();
    const stored = await bytesOf(store(source, 'q8')?.file ?? new Blob());
    expect(store(stored, 'q4')).toBeNull();
    expect(transformMakers.q8('config.json', new Uint8Array(8), 8)).toBeNull();
  });

  test('a file that has such names already is refused', () => {
    const name = 'mid_block.attentions.0.proj_in.weight';
    const tensor = (dims: number[]) => ({ dims, data: noise(dims.reduce((a, b) => a * b)) });
    const bytes = writeSafetensors([
      [name, tensor([64, 64])],
      [`${name}.scales`, tensor([2])],
    ]);
    expect(() => store(bytes, 'q8')).toThrow(expect.objectContaining({ code: 'checkpoint_unsupported' }));
  });

  const q8 = 'mid_block.attentions.0.proj_in.weight.q8';
  const scales = 'mid_block.attentions.0.proj_in.weight.scales';
  type Entries = Parameters<typeof writeSafetensorsHeader>[0];
  const good: Entries = [
    [q8, { dtype: 'U8', shape: [64, 2, 32] }],
    [scales, { dtype: 'F16', shape: [64, 2] }],
  ];
  const hostile: [string, Entries, Record<string, string>, RegExp][] = [
    ['another variant', good, { darkroom_quantised: 'q2' }, /does not say how/],
    ['no scales', [...good].slice(0, 1), { darkroom_quantised: 'q8' }, /scales .* missing/],
    [
      'scales of another shape',
      [[...good][0], [scales, { dtype: 'F16', shape: [2, 64] }]],
      { darkroom_quantised: 'q8' },
      /scales/,
    ],
    ['whole scales', [[...good][0], [scales, { dtype: 'U8', shape: [64, 2] }]], { darkroom_quantised: 'q8' }, /scales/],
    [
      'blocks of another width',
      [[q8, { dtype: 'U8', shape: [64, 2, 16] }], [...good][1]],
      { darkroom_quantised: 'q8' },
      /blocks .* wrong/,
    ],
    [
      'blocks without dimensions',
      [[q8, { dtype: 'U8', shape: [] }], [...good][1]],
      { darkroom_quantised: 'q8' },
      /blocks .* wrong/,
    ],
    [
      'no blocks',
      [
        [q8, { dtype: 'U8', shape: [0, 2, 32] }],
        [scales, { dtype: 'F16', shape: [0, 2] }],
      ],
      { darkroom_quantised: 'q8' },
      /blocks .* wrong/,
    ],
    [
      'blocks that are floats',
      [[q8, { dtype: 'F32', shape: [64, 2, 32] }], [...good][1]],
      { darkroom_quantised: 'q8' },
      /blocks .* wrong/,
    ],
    [
      'a weight both ways',
      [...good, [q8.slice(0, -3), { dtype: 'F32', shape: [64, 64] }]],
      { darkroom_quantised: 'q8' },
      /twice/,
    ],
    [
      'a weight at both widths',
      [...good, [q8.replace('.q8', '.q4'), { dtype: 'U8', shape: [64, 2, 16] }]],
      { darkroom_quantised: 'q8' },
      /twice/,
    ],
  ];
  const fileOf = (entries: Entries, metadata: Record<string, string>) => {
    const sizes = { U8: 1, F16: 2, F32: 4 } as Record<string, number>;
    const body = [...entries].reduce(
      (sum, [, { dtype, shape }]) => sum + shape.reduce((a, b) => a * b, sizes[dtype]),
      0,
    );
    return new Blob([writeSafetensorsHeader(entries, metadata), new Uint8Array(body)]);
  };

  test.each(hostile)('refused: %s', async (_, entries, metadata, sentence) => {
    await expect(opened(fileOf(entries, metadata))).rejects.toThrow(
      expect.objectContaining({ code: 'checkpoint_damaged', message: expect.stringMatching(sentence) as string }),
    );
  });

  test('a well-formed one is not, and without the metadata such names mean nothing', async () => {
    const file = await opened(fileOf(good, { darkroom_quantised: 'q8' }));
    expect([...file.names()]).toEqual(['mid_block.attentions.0.proj_in.weight']);
    const [begin] = [...file.names()].map((name) => file.get(name)?.offset ?? 0);
    expect(file.get(q8.slice(0, -3))).toEqual({
      name: q8.slice(0, -3),
      dtype: 'F16',
      shape: [64, 64],
      file: FILE,
      offset: begin,
      length: 4096,
      quantised: { bits: 8, dataOffset: begin, scalesOffset: begin + 4096 },
    });
    expect([...(await opened(fileOf(good, {}))).names()]).toEqual([scales]);
  });
});

/** A network of a checkpoint with inputs for it. */
interface Case {
  weights: CheckpointFolder;
  build: (weights: WeightIndex, options: Partial<Parameters<typeof unet2d.build>[2]>) => Graph;
  inputs: Record<string, Float32Array | Int32Array>[];
}

async function textCase(checkpoint: keyof typeof CHECKPOINTS): Promise<Case> {
  const weights = new CheckpointFolder(`${CHECKPOINTS[checkpoint]}/text_encoder`);
  const config = clipText.parseConfig(weights.config);
  const ids = Int32Array.from(
    { length: 77 },
    (_, i) => (i === 0 ? 750 : i < 9 ? 40 + 61 * i : 751) % config.vocab_size,
  );
  const base = { provider: 'wasm', dtype: 'f32', batch: 1, height: 0, width: 0 } as const;
  return Promise.resolve({
    weights,
    build: (index, options) => clipText.build(config, index, { ...base, ...options }),
    inputs: [{ input_ids: ids }],
  });
}

/** Typical input of a trained network: the latents of a picture (made by diffusers with the built-in checkpoint) with a timestep's noise. */
function noisyLatents(): (timestep: number) => Float32Array<ArrayBuffer> {
  const scheduler = JSON.parse(readFileSync(`${CHECKPOINTS.builtin}/scheduler/scheduler_config.json`, 'utf8')) as Pick<
    TableSettings,
    'beta_start' | 'beta_end' | 'beta_schedule'
  >;
  const { alphasCumprod } = noiseTable({ num_train_timesteps: 1000, trained_betas: null, ...scheduler });
  const latents = readTensors(`${HERE}/goldens/pipelines/builtin-scenes/expected.safetensors`).get('latents')?.data;
  return (timestep) => {
    const share = alphasCumprod[timestep];
    return normalNoise(latents?.length ?? 0, timestep).map(
      (value, i) => Math.sqrt(share) * (latents?.[i] ?? NaN) + Math.sqrt(1 - share) * value,
    );
  };
}

async function unetCase(checkpoint: keyof typeof CHECKPOINTS): Promise<Case> {
  const text = await textCase(checkpoint);
  const { last_hidden_state } = await run(text.build(text.weights, {}), text.weights, text.inputs[0]);
  const weights = new CheckpointFolder(`${CHECKPOINTS[checkpoint]}/unet`);
  const config = unet2d.parseConfig(weights.config);
  const side = checkpoint === 'builtin' ? 32 : 8;
  const base = { provider: 'wasm', dtype: 'f32', batch: 1, height: side, width: side } as const;
  const latentsAt =
    checkpoint === 'builtin' ? noisyLatents() : (timestep: number) => normalNoise(4 * side * side, timestep);
  return {
    weights,
    build: (index, options) => unet2d.build(config, index, { ...base, ...options }),
    inputs: [21, 501, 981].map((timestep) => ({
      sample: latentsAt(timestep),
      time_proj: unet2d.timeProjection(config, timestep),
      encoder_hidden_states: last_hidden_state,
    })),
  };
}

/** A graph's first output for each of a case's inputs. */
async function outputsOf(graph: Graph, weights: NetworkWeights, { inputs }: Case): Promise<Float32Array[]> {
  const network = await CpuNetwork.open(graph, weights);
  const outputs: Float32Array[] = [];
  for (const each of inputs) {
    outputs.push(Object.values(await network.run(each))[0]);
  }
  await network.release();
  return outputs;
}

const greatestError = (actual: Float32Array[], expected: Float32Array[]) =>
  Math.max(...actual.map((output, index) => relativeError(output, expected[index])));

/** Weights after a round trip through 4 or 8 bits, under the rule for large networks, in whole files. */
async function asIfLarge(weights: CheckpointFolder, variant: 'q8' | 'q4'): Promise<NetworkWeights> {
  const blobs = new Map<string, Blob>();
  for (const [file, blob] of weights.blobs) {
    const content = await bytesOf(blob);
    for (const name of weights.names()) {
      const { shape, offset, length, dtype } = weights.get(name) as StoredTensor;
      const bits = quantisedBits(name, [1_000_000, ...shape.slice(1)], variant);
      if (bits !== null && weights.get(name)?.file === file) {
        const back = restored(asFloats(content.subarray(offset, offset + length), dtype), bits);
        content.set(convert(new Uint8Array(back.buffer), 'F32', dtype), offset);
      }
    }
    blobs.set(file, new Blob([content]));
  }
  return { get: (name) => weights.get(name), names: () => weights.names(), blobs };
}

describe('what quantised weights cost', () => {
  const rows: Record<string, string | number>[] = [];
  const percent = (error: number) => `${(100 * error).toFixed(2)} %`;
  afterAll(() => {
    console.table(rows);
  });
  const limits = { q8: 0.01, q4: 0.05 };

  describe.each(Object.keys(CHECKPOINTS) as (keyof typeof CHECKPOINTS)[])('%s', (checkpoint) => {
    test.each(['wasm', 'webgpu'] as const)('UNet, nodes for %s', async (provider) => {
      const unet = await unetCase(checkpoint);
      const full = unet.build(unet.weights, { provider });
      const expected = await outputsOf(full, unet.weights, unet);
      const row: Record<string, string | number> = {
        checkpoint,
        network: `unet, ${provider}`,
        bytes: full.weightBytes,
      };
      for (const variant of ['q8', 'q4'] as const) {
        const graph = unet.build(unet.weights, { provider, weights: variant });
        expect(graph.weightBytes).toBeLessThan(full.weightBytes);
        expect(graph.flops).toBe(full.flops);
        const error = greatestError(await outputsOf(graph, unet.weights, unet), expected);
        row[variant] = percent(error);
        row[`${variant} bytes`] = graph.weightBytes;
        expect(error).toBeLessThan(limits[variant]);
        expect(error).toBeGreaterThan(0);
      }
      rows.push(row);
    });

    test('text encoder', async () => {
      const text = await textCase(checkpoint);
      const full = text.build(text.weights, {});
      const expected = await outputsOf(full, text.weights, text);
      const errors: number[] = [];
      for (const weights of ['q8', 'q4'] as const) {
        errors.push(
          greatestError(await outputsOf(text.build(text.weights, { weights }), text.weights, text), expected),
        );
      }
      rows.push({
        checkpoint,
        network: 'text encoder',
        bytes: full.weightBytes,
        q8: percent(errors[0]),
        q4: percent(errors[1]),
      });
      expect(Math.max(...errors)).toBeLessThan(limits.q8);
    });
  });

  test('the trained UNet with the rule for large matrices on all sizes: 8 bits cost little, 4 are too few for small ones', async () => {
    const unet = await unetCase('builtin');
    const full = unet.build(unet.weights, {});
    const expected = await outputsOf(full, unet.weights, unet);
    const row: Record<string, string> = { checkpoint: 'builtin', network: 'unet as if it were large' };
    const cost: Record<string, number> = {};
    for (const variant of ['q8', 'q4'] as const) {
      const got = await outputsOf(full, await asIfLarge(unet.weights, variant), unet);
      row[variant] = got.map((output, index) => percent(relativeError(output, expected[index]))).join(', ');
      cost[variant] = greatestError(got, expected);
    }
    rows.push(row);
    expect(cost.q8).toBeLessThan(limits.q8);
    // Hence small matrices get 8 bits in the 4-bit variant.
    const spared = await outputsOf(unet.build(unet.weights, { weights: 'q4' }), unet.weights, unet);
    expect(greatestError(spared, expected)).toBeLessThan(Math.min(limits.q4, cost.q4));
  });
});

describe('graphs of stored files', () => {
  let unet: Case;
  let stored: NetworkWeights;
  let whole: Float32Array[];
  beforeAll(async () => {
    unet = await unetCase('builtin');
    whole = await outputsOf(unet.build(unet.weights, {}), unet.weights, unet);
    stored = await opened(store(original('builtin'), 'q4')?.file ?? new Blob());
  });

  test('they compute what a whole file quantised on its way computes', async () => {
    const streamed = unet.build(unet.weights, { provider: 'webgpu', weights: 'q4' });
    const graph = unet.build(stored, { provider: 'webgpu' });
    expect(graph.weightBytes).toBe(streamed.weightBytes);
    expect(await outputsOf(graph, stored, unet)).toEqual(await outputsOf(streamed, unet.weights, unet));
    // On wasm the shortcuts are convolutions, whose quantised weights are expanded.
    expect(greatestError(await outputsOf(unet.build(stored, {}), stored, unet), whole)).toBeLessThan(0.05);
    // The stored form wins over the requested one.
    expect(unet.build(stored, { weights: 'q8' }).bytes).toEqual(unet.build(stored, {}).bytes);
  });

  test('data and scales lie in the file as the device gets them, where it computes in f16', async () => {
    const graph = unet.build(stored, { provider: 'webgpu', dtype: 'f16' });
    const kinds = graph.externals.map(({ kind }) => kind);
    expect(kinds).not.toContain('quantised');
    const nodes = parseModel(graph.bytes).graph?.node.filter(({ opType }) => opType === 'MatMulNBits') ?? [];
    expect(nodes.length).toBeGreaterThan(40);
    const wide = unet.build(stored, { provider: 'webgpu' });
    expect(wide.externals.flatMap((external) => (external.kind === 'quantised' ? [external.part] : []))).toEqual(
      Array<string>(nodes.length).fill('scales'),
    );
    expect(greatestError(await outputsOf(graph, stored, unet), whole)).toBeLessThan(0.05);
  });

  test('where no quantised node fits, weights come back whole', async () => {
    const name = 'up_blocks.0.resnets.0.conv_shortcut.weight';
    const shape = unet.weights.get(name)?.shape ?? [];
    const tensor = stored.get(name) as StoredTensor;
    const graph = new LayerWriter('test', stored, { provider: 'wasm', dtype: 'f32', batch: 1, height: 1, width: 1 });
    graph.weight(name, shape);
    const [external] = graph.graph().externals;
    expect(external).toMatchObject({ kind: 'cast', tensor });
    const whole = unet.weights.get(name) as StoredTensor;
    const source = (await bytesOf(unet.weights.blobs.get(FILE) ?? new Blob())).subarray(
      whole.offset,
      whole.offset + whole.length,
    );
    const floats = asFloats(await readExternal(external, stored.blobs), 'F32');
    expect(floats).toEqual(restored(asFloats(source, whole.dtype), tensor.quantised?.bits ?? 4));
  });
});

describe('MatMulNBits on bytes at any offset of a file', () => {
  const [rows, n, k] = [5, 64, 96];
  const x = noise(rows * k, 11);
  const values = noise(n * k, 12);
  const bias = noise(n, 13);

  const cases = ([8, 4] as const).flatMap((bits) =>
    (['F32', 'F16'] as const).flatMap((dtype) => [0, 1, 2, 3].map((gap) => ({ bits, dtype, gap }))),
  );

  test.each(cases)('$bits bits, scales $dtype, $gap bytes off', async ({ bits, dtype, gap }) => {
    const blocks = quantise(values, bits);
    const scales = convert(new Uint8Array(blocks.scales.buffer), 'F16', dtype);
    // Bias, data and scales are each misaligned by one more byte.
    const file = new Blob([
      new Uint8Array(gap),
      new Uint8Array(bias.buffer),
      new Uint8Array(gap),
      blocks.data,
      new Uint8Array(gap),
      scales,
    ]);
    const dataOffset = 2 * gap + 4 * n;
    const quantised = { bits, dataOffset, scalesOffset: dataOffset + blocks.data.length + gap };
    const tensors: StoredTensor[] = [
      { name: 'layer.bias', dtype: 'F32', shape: [n], file: FILE, offset: gap, length: 4 * n },
      {
        name: 'layer.weight',
        dtype,
        shape: [n, k],
        file: FILE,
        offset: dataOffset,
        length: blocks.data.length,
        quantised,
      },
    ];
    const index = new Map(tensors.map((tensor) => [tensor.name, tensor]));
    const weights = {
      get: (name: string) => index.get(name),
      names: () => index.keys(),
      blobs: new Map([[FILE, file]]),
    };
    const g = new LayerWriter('test', weights, { provider: 'wasm', dtype: 'f32', batch: 1, height: 1, width: 1 });
    g.output('y', g.linear('layer', g.input('x', 'float32', [rows, k]), n));
    const graph = g.graph();
    expect(graph.externals.length).toBe(dtype === 'F32' ? 1 : 2);

    const matrix = restored(values, bits);
    const expected = Float32Array.from({ length: rows * n }, (_, i) => {
      const [row, column] = [Math.floor(i / n), i % n];
      let sum = bias[column];
      for (let inner = 0; inner < k; inner++) {
        sum += x[row * k + inner] * matrix[column * k + inner];
      }
      return sum;
    });
    expect(relativeError((await run(graph, weights, { x })).y, expected)).toBeLessThan(1e-6);

    const externalData = await Promise.all(
      graph.externals.map(async (external) => ({
        path: external.location,
        data: await readExternal(external, weights.blobs),
      })),
    );
    const session = await ortWeb.InferenceSession.create(graph.bytes, { externalData });
    const { y } = await session.run({ x: new ortWeb.Tensor('float32', x, [rows, k]) });
    expect(relativeError(y.data as Float32Array, expected)).toBeLessThan(1e-6);
    await session.release();
  });

  beforeAll(() => {
    const wasm = new URL('../node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm', import.meta.url);
    ortWeb.env.wasm.wasmBinary = new Uint8Array(readFileSync(wasm)).buffer;
    ortWeb.env.wasm.numThreads = 1;
  });
});

describe('LoRAs', () => {
  const GOLDENS = `${HERE}/goldens`;
  const { scale: SCALE } = JSON.parse(readFileSync(`${GOLDENS}/lora/expected.json`, 'utf8')) as { scale: number };
  const expected = readTensors(`${GOLDENS}/lora/expected.safetensors`);
  const components = readTensors(`${GOLDENS}/components/tiny-sd15.safetensors`);
  const golden = (tensors: typeof expected, key: string) => tensors.get(key)?.data as Float32Array;
  const networks = {
    unet: new CheckpointFolder(`${CHECKPOINTS['tiny-sd15']}/unet`),
    text_encoder: new CheckpointFolder(`${CHECKPOINTS['tiny-sd15']}/text_encoder`),
  };
  const loraBytes = (layout: string) => new Uint8Array(readFileSync(`${GOLDENS}/lora/${layout}.safetensors`));

  async function applied(layout: string, strength = SCALE) {
    const blob = new Blob([loraBytes(layout)]);
    const lora = await readLora(blob, 'lora', networks);
    const merged = (network: keyof typeof networks): NetworkWeights => ({
      ...withLora(networks[network], lora[network], strength),
      blobs: new Map([...networks[network].blobs, ['lora', blob]]),
    });
    return { lora, merged };
  }

  const unetInputs = (config: unet2d.Config) => ({
    sample: golden(components, 'unet.0.sample'),
    time_proj: unet2d.timeProjection(config, golden(components, 'unet.0.timestep')[0]),
    encoder_hidden_states: golden(components, 'unet.0.encoder_hidden_states'),
  });
  const base = { dtype: 'f32', batch: 1, height: 8, width: 8 } as const;

  test.each(['kohya', 'peft', 'old'])('%s: both networks give what diffusers gives', async (layout) => {
    const { merged, lora } = await applied(layout);
    expect(lora.unet.size).toBe(layout === 'old' ? 4 : 10);
    expect(lora.text_encoder.size).toBe({ kohya: 2, peft: 3, old: 0 }[layout]);
    const config = unet2d.parseConfig(networks.unet.config);
    for (const provider of ['wasm', 'webgpu'] as const) {
      const unet = unet2d.build(config, merged('unet'), { ...base, provider });
      const { out_sample } = await run(unet, merged('unet'), unetInputs(config));
      expect(relativeError(out_sample, golden(expected, `${layout}.unet.out`))).toBeLessThan(1e-5);
    }
    const text = clipText.build(clipText.parseConfig(networks.text_encoder.config), merged('text_encoder'), {
      ...base,
      provider: 'wasm',
    });
    const { last_hidden_state } = await run(text, merged('text_encoder'), {
      input_ids: components.get('input_ids.0')?.data ?? new Int32Array(),
    });
    expect(relativeError(last_hidden_state, golden(expected, `${layout}.prompt_embeds`))).toBeLessThan(1e-5);
  });

  const mergedWeights = [...expected.keys()].filter((key) => key.endsWith('.weight'));

  test.each(mergedWeights)('%s, whole and in ranges', async (key) => {
    const layout = key.slice(0, key.indexOf('.'));
    const name = key.slice(layout.length + 1);
    const { merged } = await applied(layout);
    const weights = merged('unet');
    const tensor = weights.get(name) as StoredTensor;
    const external: External = { location: 'w', kind: 'cast', tensor, to: 'f32', length: tensor.length };
    const whole = await readExternal(external, weights.blobs);
    expect(relativeError(asFloats(whole, 'F32'), golden(expected, key))).toBeLessThan(1e-6);
    for (const [begin, end] of [
      [4, 8],
      [100, 1000],
      [128, tensor.length],
    ]) {
      const range = await readExternal(external, weights.blobs, begin, end);
      expect(Buffer.compare(range, whole.subarray(begin, end))).toBe(0);
    }
    const half = await readExternal({ ...external, to: 'f16', length: tensor.length / 2 }, weights.blobs);
    expect(half).toEqual(convert(whole, 'F32', 'F16'));
  });

  test('merged before they are quantised, and into weights that are stored quantised', async () => {
    const { merged, lora } = await applied('kohya');
    const config = unet2d.parseConfig(networks.unet.config);
    const out = golden(expected, 'kohya.unet.out');
    const streamed = unet2d.build(config, merged('unet'), { ...base, provider: 'webgpu', weights: 'q8' });
    expect(streamed.externals.some((external) => external.kind === 'quantised' && external.tensor.deltas)).toBe(true);
    expect(relativeError((await run(streamed, merged('unet'), unetInputs(config))).out_sample, out)).toBeLessThan(0.02);

    const stored = await opened(store(original('tiny-sd15'), 'q8')?.file ?? new Blob());
    const weights = {
      ...withLora(stored, lora.unet, SCALE),
      blobs: new Map([...stored.blobs, ['lora', new Blob([loraBytes('kohya')])]]),
    };
    const graph = unet2d.build(config, weights, { ...base, provider: 'webgpu' });
    expect(relativeError((await run(graph, weights, unetInputs(config))).out_sample, out)).toBeLessThan(0.02);
  });

  test('one over the other, and at no strength nothing', async () => {
    const { lora } = await applied('kohya');
    const name = `${[...lora.unet.keys()][0]}.weight`;
    const once = withLora(networks.unet, lora.unet, 1);
    const twice = withLora(once, lora.unet, -1);
    expect(twice.get(name)?.deltas?.map(({ scale }) => Math.sign(scale))).toEqual([1, -1]);
    expect(withLora(networks.unet, lora.unet, 0).get(name)).toEqual(networks.unet.get(name));
    expect(once.get('conv_in.weight')).toEqual(networks.unet.get('conv_in.weight'));
    const blobs = new Map([...networks.unet.blobs, ['lora', new Blob([loraBytes('kohya')])]]);
    const read = async (tensor: StoredTensor | undefined) =>
      asFloats(
        await readExternal(
          { location: 'w', kind: 'cast', tensor: tensor as StoredTensor, to: 'f32', length: tensor?.length ?? 0 },
          blobs,
        ),
        'F32',
      );
    expect(relativeError(await read(twice.get(name)), await read(networks.unet.get(name)))).toBeLessThan(1e-6);
  });
});
