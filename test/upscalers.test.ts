/** Upscalers: every naming layout against spandrel, the one that comes with the page against ncnn, tiles, transparency, and refusals. */
import { describe, expect, test } from 'vitest';
import * as chunk from '../chunks/upscale_image.ts';
import type { Context } from '../src/core/chunk.ts';
import type { PixelImage } from '../src/core/media.ts';
import type { UpscaleRequest } from '../src/core/model.ts';
import { spreadColours } from '../src/formats/background.ts';
import * as rrdbnet from '../src/graphs/rrdbnet.ts';
import * as srvgg from '../src/graphs/srvgg_net_compact.ts';
import { asUpscaler, openCheckpoint, openModel, type LoadedUpscaler } from '../src/models/family.ts';
import { FolderFiles, type CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { storedTensors } from '../src/weights/quantise.ts';
import { readSafetensorsHeader, writeSafetensors } from '../src/weights/safetensors.ts';
import { upscalerNetwork } from '../src/weights/upscaler_layout.ts';
import { startNodeEngine } from './node_engine.ts';
import { run } from './onnx_node.ts';
import { shippedGolden, upscalerFiles, upscalerGoldens, type UpscalerGolden } from './upscaler_goldens.ts';

const goldens = upscalerGoldens();
const goldenNamed = (name: string) => goldens.find((one) => one.name === name) as UpscalerGolden;

async function open(files: CheckpointFiles): Promise<LoadedUpscaler> {
  return asUpscaler(await openCheckpoint(files, startNodeEngine().engine));
}

function request(more: Partial<UpscaleRequest> = {}): UpscaleRequest {
  return { tile_size: 256, signal: new AbortController().signal, onTile: () => undefined, ...more };
}

/** A picture's red, green and blue planes one after another, as in tensors. */
function planesOf({ width, height, data }: PixelImage): number[] {
  return [0, 1, 2].flatMap((c) => Array.from({ length: width * height }, (_, i) => data[4 * i + c]));
}

function greatest(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  return Array.from(expected).reduce((most, value, i) => Math.max(most, Math.abs(value - actual[i])), 0);
}

const bytesOf = (expected: Float32Array) => Uint8ClampedArray.from(expected, (value) => 255 * value);

describe.each(goldens)('$name: $about', ({ name, className, scale, file, picture, expected }) => {
  test.each(['wasm', 'webgpu'] as const)('the nodes for %s', async (provider) => {
    const blob = new Blob([file]);
    const header = await readSafetensorsHeader(blob, name);
    const network = upscalerNetwork(storedTensors(header, name), name);
    expect(network.className).toBe(className === 'RRDBNet' ? 'RRDBNet' : 'SRVGGNetCompact');
    const { width, height } = picture;
    const multiple = network.className === 'RRDBNet' ? network.config.unshuffle : 1;
    if (width % multiple !== 0 || height % multiple !== 0) {
      return; // Mirroring at the borders is the model's job, below.
    }
    const options = { provider, dtype: 'f32', batch: 1, width, height } as const;
    const graph =
      network.className === 'RRDBNet'
        ? rrdbnet.build(network.config, network.weights, options)
        : srvgg.build(network.config, network.weights, options);
    const weights = Object.assign(Object.create(network.weights) as typeof network.weights, {
      blobs: new Map([[name, blob]]),
    });
    const image = Float32Array.from(planesOf(picture), (value) => value / 255);
    const { enlarged } = await run(graph, weights, { image });
    expect(greatest(enlarged, expected)).toBeLessThan(1e-4);
  });

  test('the picture', async () => {
    const upscaler = await open(upscalerFiles({ name, file }));
    expect(upscaler.summary).toMatchObject({ name, scale, takesLoras: false, variants: ['full'] });
    const enlarged = await upscaler.upscale(picture, request());
    expect([enlarged.width, enlarged.height]).toEqual([picture.width * scale, picture.height * scale]);
    expect(greatest(planesOf(enlarged), bytesOf(expected))).toBeLessThanOrEqual(1);
  });
});

describe('realesr-animevideov3, which comes with the page', () => {
  const { files, picture, expected } = shippedGolden();

  test.each([4, 3, 2])('%d times as large, as the ncnn library makes it', async (scale) => {
    const upscaler = await open(files);
    expect(upscaler.summary).toMatchObject({ pipelineClass: 'SRVGGNetCompact', parameters: 621_424, scale: 4 });
    const enlarged = await upscaler.upscale(picture, request(scale === 4 ? {} : { scale }));
    expect(greatest(planesOf(enlarged), expected.get(scale) ?? [])).toBeLessThanOrEqual(1);
  });

  test('in tiles it is the same picture, told of tile by tile, and stops between two of them', async () => {
    const upscaler = await open(files);
    const large = drawn(150, 90);
    const whole = await upscaler.upscale(large, request());
    for (const scale of [4, 2]) {
      const told: string[] = [];
      const onTile = (done: number, tiles: number) => void told.push(`${done}/${tiles}`);
      const tiled = await upscaler.upscale(large, request({ scale, tile_size: 96, onTile }));
      const reference = scale === 4 ? whole : await upscaler.upscale(large, request({ scale }));
      expect(greatest(tiled.data, reference.data)).toBeLessThanOrEqual(1);
      expect(told).toEqual(['1/3', '2/3', '3/3']);
    }
    const stop = new AbortController();
    const asked = upscaler.upscale(large, request({ tile_size: 64, signal: stop.signal, onTile: () => stop.abort() }));
    await expect(asked).rejects.toMatchObject({ code: 'cancelled' });
  });

  test('transparency stays, and what it hides is not seen in the colours beside it', async () => {
    const upscaler = await open(files);
    const cut = drawn(40, 40);
    for (let i = 0; i < 40 * 40; i++) {
      if (i % 40 >= 20) {
        // As decoders leave them.
        cut.data.set([0, 0, 0, 0], 4 * i);
      } else {
        cut.data.set([200, 40, 40, 255], 4 * i);
      }
    }
    const told: number[] = [];
    const { width, data } = await upscaler.upscale(cut, request({ onTile: (done) => told.push(done) }));
    const at = (x: number, y: number) => [...data.subarray(4 * (y * width + x), 4 * (y * width + x) + 4)];
    expect(told).toEqual([1, 2]);
    expect(at(40, 80)[3]).toBe(255);
    expect(at(120, 80)[3]).toBeLessThanOrEqual(2);
    const edge = at(78, 80);
    expect(Math.abs(edge[0] - 200)).toBeLessThanOrEqual(6);
    expect(spreadColours(cut).data.subarray(4 * 39, 4 * 40)).toEqual(Uint8ClampedArray.of(200, 40, 40, 255));
  });

  test('scales that it cannot reach are refused', async () => {
    const upscaler = await open(files);
    await expect(upscaler.upscale(picture, request({ scale: 5 }))).rejects.toThrow(
      'scale is 5, but "realesr-animevideov3" takes 2 to 4; choose another scale or another upscaler.',
    );
    const endless = { width: 4096, height: 4096, data: new Uint8ClampedArray() };
    await expect(upscaler.upscale(endless, request())).rejects.toThrow(
      'A picture of 16384×16384 pixels is more than can be used; choose a smaller scale or a smaller picture.',
    );
  });

  test('the planner reckons with its tiles', async () => {
    const upscaler = await open(files);
    const { engine } = startNodeEngine();
    const circumstances = {
      device: engine.report,
      budget: { bytes: 2 ** 31, source: 'set' as const },
      rates: { measured: { f32: 1e10 }, pictures: {} },
      downloadBytes: 0,
    };
    const asked = { operation: 'image_upscale', batch_size: 1, steps: 1, guidance_scale: 1, tile_size: 128 };
    const one = await upscaler.estimate({ ...asked, width: 128, height: 128 }, circumstances);
    const four = await upscaler.estimate({ ...asked, width: 176, height: 176 }, circumstances);
    // Multiplications and additions of 18 convolutions of 3×3 over 128×128 pixels.
    expect(one.flops?.total).toBe(2 * 9 * (3 * 64 + 16 * 64 * 64 + 64 * 48) * 128 * 128);
    expect(four.flops?.total).toBe(4 * (one.flops?.total ?? 0));
    expect(four.seconds).toBeCloseTo(4 * (one.seconds ?? 0));
    expect(four.recommended).toBe('full');
    expect(
      (await upscaler.estimate({ ...asked, width: 512, height: 512, tile_size: 512 }, circumstances)).variants[0].memory
        .peak,
    ).toBeGreaterThan(4 * (one.variants[0].memory.peak / 2));
  });
});

describe('what is no upscaler of ours', () => {
  const file = (name: string, tensors: Record<string, number[]>): CheckpointFiles => {
    const bytes = writeSafetensors(
      Object.entries(tensors).map(([tensor, dims]) => {
        const data = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
        return [tensor, { dims, data }];
      }),
    );
    return new FolderFiles(name, [{ path: name, file: new File([bytes], name) }]);
  };

  test.each([
    [
      'SwinIR',
      {
        'conv_first.weight': [60, 3, 3, 3],
        'layers.0.residual_group.blocks.0.attn.relative_position_bias_table': [225, 6],
      },
    ],
    ['SPAN', { 'block_1.c1_r.sk.weight': [1, 1, 1, 1] }],
    [
      'ESRGAN+',
      {
        'model.0.weight': [16, 3, 3, 3],
        'model.1.sub.0.RDB1.conv1x1.weight': [32, 64, 1, 1],
        'model.1.sub.0.RDB1.conv1.0.weight': [1],
      },
    ],
  ])('%s is named', async (kind, tensors) => {
    await expect(open(file('large.safetensors', tensors as Record<string, number[]>))).rejects.toMatchObject({
      code: 'checkpoint_unsupported',
      message: `large.safetensors is an upscaler of the kind ${kind}, which Darkroom cannot run; it runs RRDBNet (ESRGAN, Real-ESRGAN, BSRGAN) and SRVGGNetCompact.`,
    });
  });

  test('grey pictures', async () => {
    const grey = {
      'body.0.weight': [8, 1, 3, 3],
      'body.0.bias': [8],
      'body.1.weight': [8],
      'body.2.weight': [4, 8, 3, 3],
      'body.2.bias': [4],
    };
    await expect(open(file('grey.safetensors', grey))).rejects.toThrow(
      'grey.safetensors is an upscaler from 1 to 4 channels; Darkroom runs those that take and give the three of a colour picture.',
    );
  });

  test('a torn one', async () => {
    const { name, file: bytes } = goldenNamed('srvgg-x2');
    const header = await readSafetensorsHeader(new Blob([bytes]), name);
    const tensors = storedTensors(header, name).filter((one) => one.name !== 'body.8.weight');
    expect(() => upscalerNetwork(tensors, 'x.safetensors')).toThrow(
      'x.safetensors lacks the tensor "body.8.weight" of an upscaler; download it again, or choose another one.',
    );
  });

  test('what surrounds the names in a file that was saved with its training is passed over', async () => {
    const { name, file: bytes } = goldenNamed('rrdbnet-x4');
    const header = await readSafetensorsHeader(new Blob([bytes]), name);
    const tensors = storedTensors(header, name).map((one) => ({ ...one, name: `params_ema.${one.name}` }));
    expect(upscalerNetwork(tensors, name).config).toEqual({
      features: 16,
      growth: 32,
      blocks: 2,
      doublings: 2,
      unshuffle: 1,
    });
  });

  test('neither does an upscaler paint nor a checkpoint enlarge, and LoRAs are for what paints', async () => {
    const files = upscalerFiles(goldenNamed('srvgg-x2'));
    await expect(openModel(files, startNodeEngine().engine)).rejects.toThrow(
      '"srvgg-x2" is an upscaler and paints nothing; choose a checkpoint that does.',
    );
    const lora = { file: new Blob(), name: 'paper', strength: 1 };
    await expect((await open(files)).useLoras([lora])).rejects.toThrow(
      '"srvgg-x2" is an upscaler, which takes no LoRAs; leave them out.',
    );
  });
});

describe('the chunk', () => {
  test('enlarges one picture or several, and says how far it is', async () => {
    const upscaler = await open(upscalerFiles(goldenNamed('srvgg-x2')));
    const told: string[] = [];
    const context = {
      checkpoint: '',
      models: { loadUpscaler: () => Promise.resolve(upscaler) },
      readImage: () => Promise.resolve(drawn(20, 10)),
      progress: (stage: string, done?: number, all?: number) =>
        told.push(done === undefined ? stage : `${stage} ${done}/${all ?? 0}`),
      signal: new AbortController().signal,
    } as unknown as Context;
    const asked = { operation: 'image_upscale' as const, tile_size: 256 };
    const one = await chunk.execute({ ...asked, image: 'data:image/png;base64,' }, context);
    const two = await chunk.execute(
      { ...asked, images: ['data:image/png;base64,', 'data:image/png;base64,'] },
      context,
    );
    expect([one, two].map(({ images }) => (images as PixelImage[]).map(({ width }) => width))).toEqual([
      [40],
      [40, 40],
    ]);
    expect(told).toEqual(['upscale', 'upscale 1/1', 'upscale', 'upscale 1/2', 'upscale 2/2']);
  });
});

function drawn(width: number, height: number): PixelImage {
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let i = 0; i < width * height; i++) {
    const [x, y] = [i % width, Math.floor(i / width)];
    const isDisc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2;
    data.set(isDisc ? [220, 60, 40] : [(255 * x) / width, (200 * y) / height, 120], 4 * i);
  }
  return { width, height, data };
}
