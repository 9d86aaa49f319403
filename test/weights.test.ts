/** Checkpoint folders, float conversions and the virtual files that feed weights to the runtime. */
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';
import 'fake-indexeddb/auto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { withQuickUploads } from '../src/engine/weight_uploads.ts';
import type { External } from '../src/graphs/graph.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { convert } from '../src/weights/conversion.ts';
import { ComposedBlob } from '../src/weights/library/composed_blob.ts';
import { mount } from '../src/weights/virtual_file.ts';
import { readVirtual } from './onnx_node.ts';

const CHECKPOINTS = join(import.meta.dirname, 'checkpoints');

function folder(
  name: string,
  change: (files: Map<string, Uint8Array<ArrayBuffer>>) => void = () => undefined,
): FolderFiles {
  const root = join(CHECKPOINTS, name);
  const files = new Map<string, Uint8Array<ArrayBuffer>>();
  const walk = (directory: string) => {
    for (const entry of readdirSync(directory)) {
      const path = join(directory, entry);
      if (statSync(path).isDirectory()) {
        walk(path);
      } else {
        files.set(relative(root, path), new Uint8Array(readFileSync(path)));
      }
    }
  };
  walk(root);
  change(files);
  return new FolderFiles(
    name,
    [...files].map(([path, bytes]) => ({ path, file: new File([bytes], path) })),
  );
}

const f32 = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);
const u16 = (...values: number[]) => new Uint8Array(new Uint16Array(values).buffer);
const asFloats = (bytes: Uint8Array<ArrayBuffer>) => [...new Float32Array(bytes.buffer)];
const asHalves = (bytes: Uint8Array<ArrayBuffer>) => [...new Uint16Array(bytes.buffer)];

describe('float conversion', () => {
  test('f16 widens exactly, subnormals, infinities and NaN included', () => {
    expect(asFloats(convert(u16(0x3c00, 0xc000, 0x7bff, 0x0001, 0x83ff, 0x7c00, 0xfc00), 'F16', 'F32'))).toEqual([
      1,
      -2,
      65504,
      2 ** -24,
      -1023 * 2 ** -24,
      Infinity,
      -Infinity,
    ]);
    expect(asFloats(convert(u16(0x7e00, 0x8000), 'F16', 'F32'))).toEqual([NaN, -0]);
  });

  test('bf16 widens exactly', () => {
    expect(asFloats(convert(u16(0x3f80, 0xc040, 0x0001), 'BF16', 'F32'))).toEqual([1, -3, 2 ** -133]);
  });

  test('f32 narrows to the nearest f16, ties to even, and overflows to infinity', () => {
    const cases: [number, number][] = [
      [1, 0x3c00],
      [-2, 0xc000],
      [1 + 2 ** -11, 0x3c00],
      [1 + 3 * 2 ** -11, 0x3c02],
      [65504, 0x7bff],
      [65519, 0x7bff],
      [65520, 0x7c00],
      [-1e9, 0xfc00],
      [2 ** -14, 0x0400],
      [2 ** -24, 0x0001],
      [2 ** -25, 0x0000],
      [1.5 * 2 ** -24, 0x0002],
      [0.1, 0x2e66],
      [NaN, 0x7e00],
    ];
    expect(asHalves(convert(f32(...cases.map(([value]) => value)), 'F32', 'F16'))).toEqual(
      cases.map(([, half]) => half),
    );
  });

  test('every f16 survives the way to f32 and back', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i).filter(
      (half) => (half & 0x7c00) !== 0x7c00 || (half & 0x3ff) === 0,
    );
    const bytes = new Uint8Array(all.buffer);
    expect(asHalves(convert(convert(bytes, 'F16', 'F32'), 'F32', 'F16'))).toEqual([...all]);
  });

  test('f64 narrows to the nearest f32', () => {
    const values = [1, -2.5, 0.1, 1e300, -1e-300, 2 ** -149, NaN];
    const bytes = new Uint8Array(Float64Array.from(values).buffer);
    expect(asFloats(convert(bytes, 'F64', 'F32'))).toEqual(values.map(Math.fround));
    const numbers = (halves: number[]) => halves.filter((_, i) => !Number.isNaN(values[i]));
    expect(numbers(asHalves(convert(bytes, 'F64', 'F16')))).toEqual(
      numbers(asHalves(convert(f32(...values), 'F32', 'F16'))),
    );
    const shifted = new Uint8Array([7, ...bytes]).subarray(1);
    expect(asFloats(convert(shifted, 'F64', 'F32'))).toEqual(values.map(Math.fround));
  });

  test.each(['F8_E4M3', 'F8_E5M2'] as const)('all 256 values of %s are those of torch', (type) => {
    const golden = JSON.parse(readFileSync(new URL('goldens/float8.json', import.meta.url), 'utf8')) as Record<
      typeof type,
      (number | string | null)[]
    >;
    const codes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const expected = golden[type].map((value) => (value === null ? NaN : Number(value)));
    expect(asFloats(convert(codes, type, 'F32'))).toEqual(expected);
    const numbers = (halves: number[]) => halves.filter((_, i) => !Number.isNaN(expected[i]));
    expect(numbers(asHalves(convert(codes, type, 'F16')))).toEqual(
      numbers(asHalves(convert(f32(...expected), 'F32', 'F16'))),
    );
  });

  test('any byte offset will do', () => {
    const shifted = new Uint8Array([7, ...u16(0x3c00, 0x4000)]).subarray(1);
    expect(asFloats(convert(shifted, 'F16', 'F32'))).toEqual([1, 2]);
  });
});

describe('virtual files (JSPI: read as Blob slices)', () => {
  const stored = new Blob([new Uint8Array([1, 2, 3]), u16(0x3c00, 0x4000, 0x4200, 0x4400)]);
  const tensor = { name: 'w', dtype: 'F16' as const, shape: [4], file: 'a.safetensors', offset: 3, length: 8 };
  const read = async (external: External, begin: number, end: number) => {
    const {
      files: [{ data }],
    } = mount([external], new Map([['a.safetensors', stored]]), 'jspi');
    return readVirtual((data as Blob).slice(begin, end));
  };

  test('a file whose bytes can be used as they are is read in place, range by range', async () => {
    const external: External = { location: 'a.safetensors', kind: 'file', file: 'a.safetensors' };
    expect([...(await read(external, 1, 5))]).toEqual([2, 3, 0x00, 0x3c]);
  });

  test('a tensor is converted while it streams, whole or in ranges', async () => {
    const external: External = { location: 'w', kind: 'cast', tensor, to: 'f32', length: 16 };
    expect(asFloats(await read(external, 0, 16))).toEqual([1, 2, 3, 4]);
    expect(asFloats(await read(external, 4, 12))).toEqual([2, 3]);
  });

  test('whatever range is asked for, tiny tensors that are fetched together and large ones give their own bytes', async () => {
    // 3 MB in which every byte encodes its position; tensors of all sizes, some adjacent and some far apart.
    const bytes = Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 31 + (i >> 8) * 7) & 255);
    const blobs = new Map([['a', new ComposedBlob(cut(bytes, [1000, 1001, 700_000, 2_999_999]))]]);
    const ranges: [number, number][] = [
      [0, 4],
      [4, 1004],
      [90_000, 90_016],
      [100_000, 2_400_000],
      [2_400_000, 2_400_001],
      [2_999_990, 3_000_000],
      [500, 500],
    ];
    let asked = 0;
    const externals: External[] = [{ location: 'a', kind: 'file', file: 'a', ranges }];
    const {
      files: [{ data }],
    } = mount(externals, blobs, 'jspi', (length) => (asked += length));
    for (const [begin, end] of [...ranges, [2, 90_010], [0, 3_000_000]]) {
      // Uses Buffer's comparison; element by element the test takes twenty seconds.
      const read = await readVirtual((data as Blob).slice(begin, end));
      expect(Buffer.compare(read, bytes.subarray(begin, end))).toBe(0);
    }
    expect(asked).toBe(ranges.reduce((sum, [begin, end]) => sum + end - begin, 0) + 90_008 + 3_000_000);
  });

  test('a file in pieces is cut as the browser cuts one in one piece', async () => {
    const bytes = Uint8Array.from({ length: 100 }, (_, i) => i);
    const whole = new Blob([bytes]);
    const pieces = new ComposedBlob([...cut(bytes, [1, 7, 40, 40]), new Uint8Array([200, 201])]);
    const same = new Blob([whole, new Uint8Array([200, 201])]);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: -120, max: 120 }), fc.integer({ min: -120, max: 120 }), async (begin, end) => {
        expect(await pieces.slice(begin, end).arrayBuffer()).toEqual(await same.slice(begin, end).arrayBuffer());
      }),
    );
    expect(await pieces.slice(10).arrayBuffer()).toEqual(await same.slice(10).arrayBuffer());
  });

  test('memory is read into again, and whoever reads meanwhile has its own bytes', async () => {
    const bytes = Uint8Array.from({ length: 40 * 2 ** 20 }, (_, i) => (i * 31 + (i >> 8) * 7) & 255);
    const externals: External[] = [{ location: 'a', kind: 'file', file: 'a' }];
    const weights = mount(externals, new Map([['a', new Blob([bytes])]]), 'jspi');
    const ranges = [0, 1, 2, 3, 4, 5].map((i) => [i * 1_000_003, 20 * 2 ** 20 + i * 3_000_017]);
    const memories = new Set<ArrayBuffer>();
    const whole = async ([begin, end]: number[]) => {
      let at = begin;
      for await (const part of (weights.files[0].data as Blob).slice(begin, end).stream()) {
        memories.add(part.buffer);
        expect(Buffer.compare(part, bytes.subarray(at, at + part.length))).toBe(0);
        at += part.length;
      }
      expect(at).toBe(end);
    };
    await Promise.all(ranges.map(whole));
    for (const range of ranges) {
      await whole(range);
    }
    weights.close();
    // A part kept too long becomes empty when its memory is reused, rather than showing other data.
    expect([...memories].some(({ byteLength }) => byteLength === 0)).toBe(true);
  });

  test('a read that was made ahead and failed is told when its part is asked for, and only then', async () => {
    const part = 16 * 2 ** 20;
    const file = Object.assign(new Blob([new Uint8Array(3 * part)]), {
      slice: (begin: number, end: number) => ({
        size: end - begin,
        arrayBuffer: () =>
          begin === 2 * part ? Promise.reject(new Error('moved')) : Promise.resolve(new ArrayBuffer(end - begin)),
      }),
    });
    const externals: External[] = [{ location: 'a', kind: 'file', file: 'a' }];
    const { files } = mount(externals, new Map([['a', file]]), 'jspi');
    const reader = (files[0].data as Blob)
      .slice(0, 3 * part)
      .stream()
      .getReader();
    expect((await reader.read()).value).toHaveLength(part);
    expect((await reader.read()).value).toHaveLength(part);
    await expect(reader.read()).rejects.toMatchObject({ code: 'checkpoint_incomplete' });
  });

  test('a constant vector takes no storage', async () => {
    expect(asFloats(await read({ location: 'ones', kind: 'fill', value: 1, type: 'f32', length: 12 }, 0, 12))).toEqual([
      1, 1, 1,
    ]);
    expect(asHalves(await read({ location: 'ones', kind: 'fill', value: 1, type: 'f16', length: 4 }, 0, 4))).toEqual([
      0x3c00, 0x3c00,
    ]);
  });
});

/** The bytes as Blobs that end at `ends` and at the end. */
function cut(bytes: Uint8Array<ArrayBuffer>, ends: number[]): Blob[] {
  return [...ends, bytes.length].map((end, i) => new Blob([bytes.subarray(ends[i - 1] ?? 0, end)]));
}

describe('uploads while a session is made', () => {
  const [MAP_WRITE, COPY_SRC, STORAGE] = [2, 4, 128];
  const MIB = 2 ** 20;
  beforeAll(() => {
    vi.stubGlobal('GPUBufferUsage', { MAP_WRITE, COPY_SRC });
  });
  afterAll(() => {
    vi.unstubAllGlobals();
  });

  /** The runtime's calls and their outcomes in order. */
  class FakeDevice {
    readonly calls: unknown[] = [];
    readonly queue = {
      writeBuffer: (to: object, at: number, memory: ArrayBuffer, from: number, length: number) =>
        this.calls.push(['write', to, at, new Uint8Array(memory.slice(from, from + length))]),
    };
    createBuffer({ size }: { size: number }) {
      this.calls.push(['buffer', size]);
      const memory = new ArrayBuffer(size);
      return { getMappedRange: () => memory, unmap: () => undefined, destroy: () => undefined };
    }
    createCommandEncoder() {
      return {
        copyBufferToBuffer: (...[, begin, to, at, length]: unknown[]) =>
          this.calls.push(['copy', begin, to, at, length]),
      };
    }
    get gpu() {
      return this as unknown as GPUDevice;
    }
  }

  /** What the runtime's JavaScript does with one weight. */
  function upload(device: GPUDevice, bytes: Uint8Array, to: object, label?: string): void {
    const size = 16 * Math.ceil(bytes.length / 16);
    const staging = device.createBuffer({
      mappedAtCreation: true,
      size,
      usage: MAP_WRITE | COPY_SRC,
      ...(label !== undefined && { label }),
    });
    new Uint8Array(staging.getMappedRange()).set(bytes);
    staging.unmap();
    device.createCommandEncoder().copyBufferToBuffer(staging, 0, to as GPUBuffer, 0, size);
    staging.destroy();
  }

  test('a weight is written without a staging buffer, in parts, and what is rounded up is zero', async () => {
    const device = new FakeDevice();
    const [one, other] = [{}, {}];
    const long = Uint8Array.from({ length: 9 * MIB }, (_, i) => i % 251);
    await withQuickUploads(device.gpu, () => {
      upload(device.gpu, long, one);
      upload(device.gpu, new Uint8Array([1, 2, 3]), other);
      return Promise.resolve();
    });
    const parts = [0, 4 * MIB, 8 * MIB].map((at) => ['write', one, at, long.subarray(at, at + 4 * MIB)]);
    const small = ['write', other, 0, new Uint8Array([1, 2, 3, ...new Array<number>(13).fill(0)])];
    expect(device.calls).toHaveLength(4);
    for (const [i, [, to, at, bytes]] of ([...parts, small] as [string, object, number, Uint8Array][]).entries()) {
      const [kind, ...call] = device.calls[i] as [string, object, number, Uint8Array];
      expect([kind, call[1], call[0] === to]).toEqual(['write', at, true]);
      expect(Buffer.compare(call[2], bytes)).toBe(0);
    }
  });

  test('larger weights, labelled buffers and everything else go the usual way, and afterwards all does', async () => {
    const device = new FakeDevice();
    const to = {};
    await withQuickUploads(device.gpu, () => {
      upload(device.gpu, new Uint8Array(65 * MIB), to);
      upload(device.gpu, new Uint8Array(32), to, 'native');
      device.gpu.createBuffer({ size: 48, usage: STORAGE });
      return Promise.resolve();
    });
    const usual = [
      ['buffer', 65 * MIB],
      ['copy', 0, to, 0, 65 * MIB],
      ['buffer', 32],
      ['copy', 0, to, 0, 32],
      ['buffer', 48],
    ];
    expect(device.calls).toEqual(usual);
    await expect(withQuickUploads(device.gpu, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(Object.keys(device).sort()).toEqual(['calls', 'queue']);
    upload(device.gpu, new Uint8Array(16), to);
    expect(device.calls.slice(usual.length)).toEqual([
      ['buffer', 16],
      ['copy', 0, to, 0, 16],
    ]);
  });

  test('who watches the device still does so afterwards', async () => {
    const device = new FakeDevice();
    const watching = () => ({}) as GPUBuffer;
    device.gpu.createBuffer = watching;
    await withQuickUploads(device.gpu, () => Promise.resolve());
    expect(Object.getOwnPropertyDescriptor(device, 'createBuffer')?.value).toBe(watching);
  });
});

describe('checkpoint folders', () => {
  test.each(readdirSync(CHECKPOINTS))('%s opens from its headers alone', async (name) => {
    const files = folder(name);
    const checkpoint = await Checkpoint.open(files);
    for (const component of ['text_encoder', 'unet', 'vae']) {
      const { weights, files: paths } = await checkpoint.component(component);
      expect([...weights.names()].length).toBeGreaterThan(10);
      for (const tensorName of weights.names()) {
        const tensor = weights.get(tensorName);
        expect(tensor && tensor.offset + tensor.length).toBeLessThanOrEqual((await files.blob(paths[0])).size);
      }
    }
  });

  const opening = async (files: FolderFiles) => {
    const checkpoint = await Checkpoint.open(files);
    await checkpoint.component('unet');
  };
  const unetFile = (files: Map<string, Uint8Array>) =>
    [...files.keys()].find((path) => /^unet\/.*safetensors$/.test(path)) as string;

  test.each<[string, (files: Map<string, Uint8Array<ArrayBuffer>>) => void, string, RegExp]>([
    [
      'no model_index.json',
      (files) => files.delete('model_index.json'),
      'checkpoint_incomplete',
      /has no model_index\.json/,
    ],
    [
      'model_index.json is not JSON',
      (files) => files.set('model_index.json', new TextEncoder().encode('<html>')),
      'checkpoint_damaged',
      /model_index\.json of "tiny-sd15" is not valid JSON/,
    ],
    [
      'model_index.json is a list',
      (files) => files.set('model_index.json', new TextEncoder().encode('[]')),
      'checkpoint_damaged',
      /not a JSON object/,
    ],
    [
      'no configuration',
      (files) => files.delete('unet/config.json'),
      'checkpoint_incomplete',
      /has no unet\/config\.json/,
    ],
    [
      'no weights',
      (files) => files.delete(unetFile(files)),
      'checkpoint_incomplete',
      /no \.safetensors weights in unet\//,
    ],
    [
      'only a pickle',
      (files) => {
        files.delete(unetFile(files));
        files.set('unet/diffusion_pytorch_model.bin', new Uint8Array(8));
      },
      'checkpoint_incomplete',
      /pickle that can run code/,
    ],
    [
      'truncated weights',
      (files) => files.set(unetFile(files), (files.get(unetFile(files)) as Uint8Array<ArrayBuffer>).slice(0, 5000)),
      'checkpoint_damaged',
      /./,
    ],
    ['an empty weight file', (files) => files.set(unetFile(files), new Uint8Array(0)), 'checkpoint_damaged', /./],
    [
      'a shard list that points elsewhere',
      (files) => {
        files.delete(unetFile(files));
        files.set(
          'unet/diffusion_pytorch_model.safetensors.index.json',
          new TextEncoder().encode('{"weight_map":{"w":"../vae/x.safetensors"}}'),
        );
      },
      'checkpoint_damaged',
      /not a weight file beside it/,
    ],
  ])('%s is refused in one sentence', async (_name, change, code, sentence) => {
    await expect(opening(folder('tiny-sd15', change))).rejects.toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(sentence) as string }),
    );
  });

  test('weights in several shards are found through their index', async () => {
    const checkpoint = await Checkpoint.open(
      folder('tiny-sd15', (files) => {
        const path = unetFile(files);
        const bytes = files.get(path) as Uint8Array<ArrayBuffer>;
        files.delete(path);
        files.set('unet/diffusion_pytorch_model-00001-of-00001.safetensors', bytes);
        files.set(
          'unet/diffusion_pytorch_model.safetensors.index.json',
          new TextEncoder().encode(
            '{"weight_map":{"conv_in.weight":"diffusion_pytorch_model-00001-of-00001.safetensors"}}',
          ),
        );
      }),
    );
    const { weights, files } = await checkpoint.component('unet');
    expect(files).toEqual(['unet/diffusion_pytorch_model-00001-of-00001.safetensors']);
    expect(weights.get('conv_in.weight')?.shape.slice(1)).toEqual([4, 3, 3]);
  });
});
