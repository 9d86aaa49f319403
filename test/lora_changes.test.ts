/** What is written to the device again when LoRAs come, go, or change their strength: the tensors that they touch, and no others. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tensor } from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { BlockMode } from '../src/core/job.ts';
import type { SampleRequest, WeightVariant } from '../src/core/model.ts';
import { GpuBlockMemory } from '../src/engine/block_memory.ts';
import { BlockNetwork } from '../src/engine/block_network.ts';
import { placeBlocks } from '../src/engine/block_placement.ts';
import { Uploads } from '../src/engine/block_weights.ts';
import { productOf } from '../src/engine/device_products.ts';
import type { Network, OrtModule } from '../src/engine/runtime.ts';
import type { BlockGraphs, External, StoredTensor } from '../src/graphs/graph.ts';
import { LayerWriter } from '../src/graphs/layers.ts';
import { openModel, type ModelLora } from '../src/models/family.ts';
import type { CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { mount } from '../src/weights/virtual_file.ts';
import { filesOf, folderFiles } from './checkpoint_folder.ts';
import { greatestDifference } from './fidelity/fidelity.ts';
import { startNodeEngine } from './node_engine.ts';
import { sampleRequest } from './sample_request.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const HERE = import.meta.dirname;
const SETTINGS = { width: 64, height: 48, batch_size: 1, steps: 2, guidance_scale: 3 };
const sd15 = () => folderFiles(join(HERE, 'checkpoints', 'tiny-sd15'));

/** Each is read once: the same object is the same file. */
const files = new Map<string, Blob>();

/** @param path below `goldens`, without its ending */
function lora(path: string, use: Partial<ModelLora> = {}): ModelLora {
  const file = files.get(path) ?? new Blob([readFileSync(join(HERE, 'goldens', `${path}.safetensors`))]);
  files.set(path, file);
  return { file, name: path.replace(/^.*\//, ''), strength: 1, ...use };
}

/** Layers of the UNet in `lora/old`, which are all matrices, and those in `lora/kohya`, of which some are convolutions. */
const OLD = 4;
const KOHYA = { unet: 10, text: 2 };

async function open(files: CheckpointFiles, blocks: BlockMode = 'resident', weights: WeightVariant = 'full') {
  const { engine, log } = startNodeEngine(undefined, blocks);
  const model = await openModel(files, engine, { weights });
  /** What was written, and how many sessions were made, since this was asked last. */
  const { uploads } = engine.ledger;
  let before = { tensors: 0, bytes: 0, sessions: 0 };
  const since = () => {
    const now = { tensors: uploads.tensors, bytes: uploads.bytes, sessions: log.created };
    const done = {
      tensors: now.tensors - before.tensors,
      bytes: now.bytes - before.bytes,
      sessions: now.sessions - before.sessions,
    };
    before = now;
    return done;
  };
  const sample = async (loras: readonly ModelLora[] = [], more: Partial<SampleRequest> = {}) => {
    await model.useLoras(loras);
    const text = await model.encodeText({ ...SETTINGS, prompt: 'Ein roter Fuchs', negative_prompt: 'blau' });
    const latents = await model.sample(text, sampleRequest({ ...SETTINGS, ...more }));
    return latents.read();
  };
  return { model, since, sample };
}

async function fresh(files: CheckpointFiles, loras: readonly ModelLora[], blocks: BlockMode = 'resident') {
  const { model, sample } = await open(files, blocks);
  const made = await sample(loras);
  await model.release();
  return made;
}

function expectAlike(one: Float32Array, other: Float32Array): void {
  expect(greatestDifference(one, other)).toBeLessThan(1e-4);
}

describe('on the processor', () => {
  test('a LoRA that comes, changes its strength and goes writes its tensors, and the picture is that of a fresh start', async () => {
    const { model, since, sample } = await open(sd15());
    const plain = await sample();
    const loading = since();
    expect(loading.tensors).toBeGreaterThan(40);
    for (const strength of [1, -0.25]) {
      const one = lora('lora/old', { strength });
      expect(await sample([one])).toEqual(await fresh(sd15(), [one]));
      const { tensors, bytes, sessions } = since();
      expect({ tensors, sessions }).toEqual({ tensors: OLD, sessions: 0 });
      expect(bytes).toBeLessThan(loading.bytes / 10);
    }
    expect(await sample()).toEqual(plain);
    expect(since()).toMatchObject({ tensors: OLD, sessions: 0 });
    expect(await sample()).toEqual(plain);
    expect(since()).toEqual({ tensors: 0, bytes: 0, sessions: 0 });
    await model.release();
  });

  test('an embedding that is in one of two prompts, or in none, is read by one text encoder', async () => {
    const { model, since } = await open(sd15());
    const vectors = { dims: [2, 48], data: new Float32Array(2 * 48).fill(0.1) };
    const kettle = { file: new Blob([writeSafetensors([['emb_params', vectors]])]), name: 'kettle', strength: 1 };
    const read = async (prompt: string, negative_prompt: string) => {
      const text = await model.encodeText({ ...SETTINGS, prompt, negative_prompt, prompt_syntax: 'comfyui' });
      text.dispose();
    };
    await model.useLoras([kettle]);
    since();
    await read('a embedding:kettle', 'fog');
    expect(since().sessions).toBe(1);
    await read('a jug', 'embedding:kettle');
    await read('a jug', 'fog');
    expect(since().sessions).toBe(0);
    await model.release();
  });

  test('computes what the whole graph does', async () => {
    const loras = [lora('lora/kohya', { strength: 0.8 }), lora('lora/old', { strength: 0.5 })];
    const [whole, bound] = [await fresh(sd15(), loras, 'off'), await fresh(sd15(), loras)];
    const worst = whole.reduce((most, value, i) => Math.max(most, Math.abs(value - bound[i])), 0);
    expect(worst).toBeLessThan(1e-4);
  });

  test('convolutions become such tensors when a LoRA changes them first, and stay so', async () => {
    const { model, since, sample } = await open(sd15());
    const plain = await sample();
    since();
    await sample([lora('lora/kohya')]);
    expect(since().sessions).toBe(1);
    for (const strength of [0.5, 0]) {
      await sample([lora('lora/kohya', { strength })]);
      expect(since()).toMatchObject({ tensors: KOHYA.unet + KOHYA.text, sessions: 0 });
    }
    // Convolutions whose weights may change cannot be shortened (see short_convolution.ts), which moves the last bits.
    expectAlike(await sample(), plain);
    await sample([lora('lora/kohya', { textStrength: 0 })]);
    expect(since()).toMatchObject({ tensors: KOHYA.unet, sessions: 0 });
    // The one that stays on top of another is not written where only that one's layers change.
    await sample([lora('lora/kohya', { textStrength: 0 }), lora('lora/old')]);
    expect(since()).toMatchObject({ tensors: OLD, sessions: 0 });
    await model.release();
  });

  test('one that counts in a part of the steps is written where that begins and ends', async () => {
    const { model, since, sample } = await open(sd15());
    const use = lora('lora/old', { end: 0.5 });
    const made = await sample([use]);
    const { sessions } = since();
    // The text is read once; the UNet, and what it makes of the text, twice.
    await sample([use]);
    expect(since()).toMatchObject({ tensors: 2 * OLD, sessions: 0 });
    expect(sessions).toBe(3);
    expect(made).toEqual(await sample([use]));
    expect(made).not.toEqual(await sample());
    await model.release();
  });

  test('another file of the same name is another LoRA', async () => {
    const { model, sample } = await open(sd15());
    await sample([lora('lora/kohya', { name: 'one' })]);
    const other = [lora('lora/old', { name: 'one' })];
    expectAlike(await sample(other), await fresh(sd15(), other));
    await model.release();
  });

  test('a file that cannot be read leaves no half of it behind', async () => {
    const { model, sample } = await open(sd15());
    const plain = await sample();
    const { file } = lora('lora/old');
    const broken = { ...lora('lora/old'), file: new Blob([file]) };
    const slice = broken.file.slice.bind(broken.file);
    let reads = 0;
    let isGone = false;
    broken.file.slice = (...range) => {
      if (isGone && ++reads > 2) {
        throw new DOMException('gone', 'NotReadableError');
      }
      return slice(...range);
    };
    await model.useLoras([broken]);
    isGone = true;
    await expect(sample([broken])).rejects.toThrow();
    expect(reads).toBeGreaterThan(2);
    expect(await sample()).toEqual(plain);
    await model.release();
  });

  test.each(['resident', 'streamed'] as const)('blocks of a transformer, %s', async (mode) => {
    const checkpoint = () => filesOf('tiny-flux1-dev', weightlessContents('tiny-flux1-dev'));
    const one = (strength: number) => [lora('flow_loras/flux1-kohya', { strength })];
    const { model, since, sample } = await open(checkpoint(), mode);
    const plain = await sample();
    since();
    await sample(one(1));
    const first = since();
    expect(await sample(one(0.5))).toEqual(await fresh(checkpoint(), one(0.5), mode));
    expect(first.sessions).toBe(0);
    expect(since().sessions).toBe(0);
    expect(await sample()).toEqual(plain);
    await model.release();
  });
});

describe('on a GPU', () => {
  beforeAll(() => {
    vi.stubGlobal('GPUBufferUsage', { STORAGE: 128, UNIFORM: 64, COPY_SRC: 4, COPY_DST: 8 });
  });
  afterAll(() => {
    vi.unstubAllGlobals();
  });

  const WIDTH = 8;
  const file = new Float32Array(3 * WIDTH * WIDTH + WIDTH).map((_, i) => i);
  /** A column and a row. */
  const change = Float32Array.from({ length: 2 * WIDTH }, (_, i) => i % 5);
  const stored = (name: string, at: number, shape: number[]): StoredTensor => ({
    name,
    dtype: 'F32',
    shape,
    file: 'model',
    offset: 4 * at,
    length: 4 * shape.reduce((product, side) => product * side, 1),
  });

  /** Three linear layers, of which the second has a change. */
  function graphsOf(strength: number): BlockGraphs {
    const part = (offset: number, shape: number[]): StoredTensor => ({ ...stored('', 0, shape), file: 'lora', offset });
    const tensors = new Map([
      ...['a', 'b', 'c'].map((name, i): [string, StoredTensor] => {
        const own = stored(`${name}.weight`, i * WIDTH * WIDTH, [WIDTH, WIDTH]);
        const delta = { up: part(0, [WIDTH, 1]), down: part(4 * WIDTH, [1, WIDTH]), scale: strength };
        return [own.name, name === 'b' && strength !== 0 ? { ...own, deltas: [delta] } : own];
      }),
      ['c.bias', stored('c.bias', 3 * WIDTH * WIDTH, [WIDTH])],
    ]);
    const index = { get: (name: string) => tensors.get(name), names: () => tensors.keys() };
    const g = new LayerWriter('Made', index, { provider: 'webgpu', dtype: 'f32', batch: 1, height: 1, width: 1 });
    const x = g.input('x', 'float32', [1, WIDTH]);
    const [a, b] = [
      g.linear('a', x, WIDTH, { bias: false }),
      (y: typeof x) => g.linear('b', y, WIDTH, { bias: false }),
    ];
    g.output('y', g.linear('c', b(a), WIDTH));
    return g.graph().adjustable();
  }

  test('several products are one, by rank, with rows filled up to fours', () => {
    const factor = (offset: number, shape: number[]) =>
      ({ name: 'x', dtype: 'F32', file: 'lora', offset, shape, length: 0 }) as StoredTensor;
    const products = [
      { up: factor(0, [5, 1]), down: factor(1, [1, 4]), scale: 2 },
      { up: factor(2, [5, 2]), down: factor(3, [2, 4]), scale: -1 },
    ];
    const numbers = [
      [1, 2, 3, 4, 5],
      [1, 0, 0, 1],
      [10, 20, 11, 21, 12, 22, 13, 23, 14, 24],
      [5, 6, 7, 8, 9, 10, 11, 12],
    ];
    const contents = numbers.map((each) => new Uint8Array(Float32Array.from(each).buffer));
    const { rows, columns, rank, up, down } = productOf(products, contents);
    expect([rows, columns, rank]).toEqual([5, 4, 3]);
    expect([...up]).toEqual(
      [
        [2, 4, 6, 8, 10, 0, 0, 0],
        [-10, -11, -12, -13, -14, 0, 0, 0],
        [-20, -21, -22, -23, -24, 0, 0, 0],
      ].flat(),
    );
    expect([...down]).toEqual([1, 0, 0, 1, 5, 6, 7, 8, 9, 10, 11, 12]);
  });

  test('one buffer is written, and the product added there', async () => {
    const writes: { to: object; at: number; bytes: Float32Array }[] = [];
    const made: object[] = [];
    const added: { buffer: object; offset: number }[][] = [];
    const groups: number[][] = [];
    const pass = {
      setPipeline: () => undefined,
      setBindGroup: (_: number, group: (typeof added)[number]) => added.push(group),
      dispatchWorkgroups: (...count: number[]) => groups.push(count),
      end: () => undefined,
    };
    const device = {
      createShaderModule: () => ({}),
      createComputePipeline: () => ({ getBindGroupLayout: () => ({}) }),
      createBindGroup: ({ entries }: { entries: { resource: { buffer: object; offset?: number } }[] }) =>
        entries.map(({ resource: { buffer, offset = 0 } }) => ({ buffer, offset })),
      createCommandEncoder: () => ({ beginComputePass: () => pass, finish: () => ({}) }),
      createBuffer: () => {
        const buffer = { destroy: () => undefined };
        made.push(buffer);
        return buffer;
      },
      queue: {
        submit: () => undefined,
        writeBuffer: (to: object, at: number, data: Uint8Array, from = 0, length = data.byteLength) => {
          const begin = data.byteOffset + from;
          writes.push({ to, at, bytes: new Float32Array(data.buffer.slice(begin, begin + length)) });
        },
      },
    } as unknown as GPUDevice;
    const ort = { Tensor: { fromGpuBuffer: () => new Tensor('float32', [0], [1]) } } as unknown as OrtModule;
    const settled = vi.fn(() => Promise.resolve());
    const memory = new GpuBlockMemory(Infinity, device, ort, settled);
    const blobs = new Map([
      ['model', new Blob([file])],
      ['lora', new Blob([change])],
    ]);
    const uploads = new Uploads();
    const mounted = (externals: readonly External[]) => mount([...externals], blobs, 'jspi');
    const opened: BlockGraphs['kinds'][number][] = [];
    const [before, after] = [graphsOf(0), graphsOf(2)];
    const placement = placeBlocks([before.blocks[0].weightBytes], Infinity);
    const network = await BlockNetwork.open(before, placement as NonNullable<typeof placement>, {
      memory,
      mount: mounted,
      open: (graph) => {
        opened.push(graph);
        return Promise.resolve({ release: () => Promise.resolve() } as Network);
      },
      empty: () => {
        throw new Error('nothing lies between the blocks of one block');
      },
      isCancelled: () => false,
      uploads,
    });
    // The bias stays in the session.
    expect(opened.map(({ externals }) => externals)).toEqual([
      [{ location: 'model', kind: 'file', file: 'model', ranges: [[4 * 3 * WIDTH * WIDTH, 4 * file.length]] }],
    ]);
    expect(writes).toHaveLength(3);
    writes.length = 0;
    const changes = network.changesTo(after);
    expect(changes).toMatchObject({ weights: [[1]], bytes: 4 * WIDTH * WIDTH });
    settled.mockClear();
    await network.change(changes as NonNullable<typeof changes>, mounted);
    // Its own bytes, and what is added to them: shape, column times strength, row.
    expect(writes.map(({ to, at }) => [made.indexOf(to), at])).toEqual([
      [1, 0],
      [3, 0],
      [3, 256],
      [3, 512],
    ]);
    const [own, shape, up, down] = writes.map(({ bytes }) => bytes);
    expect(own).toEqual(file.slice(WIDTH * WIDTH, 2 * WIDTH * WIDTH));
    expect([...new Uint32Array(shape.buffer)]).toEqual([WIDTH, WIDTH / 4, 1, WIDTH / 4]);
    expect(up).toEqual(change.slice(0, WIDTH).map((value) => 2 * value));
    expect(down).toEqual(change.slice(WIDTH));
    expect(added.map((group) => group.map(({ buffer, offset }) => [made.indexOf(buffer), offset]))).toEqual([
      [
        [3, 0],
        [3, 256],
        [3, 512],
        [1, 0],
      ],
    ]);
    expect(groups).toEqual([[1, 1]]);
    expect(settled).toHaveBeenCalled();
    expect(uploads).toMatchObject({ tensors: 4, bytes: 4 * 4 * WIDTH * WIDTH });
    expect(network.changesTo(after)).toMatchObject({ weights: [[]], bytes: 0 });
    expect(network.changesTo({ ...after, kinds: [] })).toBeNull();
    await network.release();
  });
});
