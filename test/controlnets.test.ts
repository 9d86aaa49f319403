/** What ControlNets refuse and record, and edge detection; their pictures are compared by test/fidelity/pictures.ts. */
import 'fake-indexeddb/auto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { parameters } from '../chunks/output_image_stable_diffusion.ts';
import { canny, detected, lineart } from '../src/formats/edges.ts';
import { roughDepth } from '../src/formats/rough_depth.ts';
import { openModel } from '../src/models/family.ts';
import { isControlNet, requireControlNet } from '../src/weights/controlnet_file.ts';
import { architectureFile, architectureFiles, renamed, same } from './architecture_checkpoints.ts';
import { paint } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';
import { readTensors } from './onnx_node.ts';
import { pngPixels } from '../src/package/node_picture.ts';

const EDGES = join(import.meta.dirname, 'goldens', 'edges');

test('edges are those of OpenCV, and lines those of the formula', () => {
  for (const [name, { dims, data }] of readTensors(join(EDGES, 'expected.safetensors'))) {
    const [picture, detector, low, high] = name.split('.');
    const given = pngPixels(readFileSync(join(EDGES, `${picture}.png`)));
    const found = detector === 'canny' ? canny(given, { low: Number(low), high: Number(high) }) : lineart(given);
    expect([found.height, found.width]).toEqual(dims);
    const greatest = Array.from(data).reduce(
      (most, value, i) => Math.max(most, Math.abs(value - found.data[4 * i])),
      0,
    );
    expect(greatest).toBeLessThanOrEqual(detector === 'canny' ? 0 : 1);
  }
  // At the size of the result; a picture without edges yields none.
  const plain = { width: 3, height: 2, data: new Uint8ClampedArray(24).fill(255) };
  for (const detector of ['canny', 'lineart'] as const) {
    const { width, height, data } = detected(plain, detector, { width: 16, height: 8 });
    expect([width, height, Math.max(...data.filter((_, i) => i % 4 !== 3))]).toEqual([16, 8, 0]);
  }
  expect(detected(plain, 'none', { width: 16, height: 8 })).toBe(plain);
});

describe('the rough depth of a picture', () => {
  const [WIDTH, HEIGHT] = [96, 72];
  type Colour = readonly [r: number, g: number, b: number, a?: number];
  const drawn = (colour: (x: number, y: number) => Colour) => ({
    width: WIDTH,
    height: HEIGHT,
    data: Uint8ClampedArray.from(
      Array.from({ length: WIDTH * HEIGHT }, (_, at) => {
        const [r, g, b, a = 255] = colour(at % WIDTH, Math.floor(at / WIDTH));
        return [r, g, b, a];
      }).flat(),
    ),
  });
  const size = { width: WIDTH, height: HEIGHT };
  const mean = ({ data, width }: { data: Uint8ClampedArray; width: number }, [x0, y0, x1, y1]: number[]) => {
    let sum = 0;
    for (let y = y0; y < y1; y++) {
      for (let x = x0; x < x1; x++) {
        sum += data[4 * (y * width + x)];
      }
    }
    return sum / ((x1 - x0) * (y1 - y0));
  };
  /** Of a checkerboard, 0 or 1. */
  const board = (x: number, y: number) => (x + y) % 2;
  /** Sky, hills in haze, a wood, and grass that is sharp. */
  const landscape = drawn((x, y) => {
    const grain = 60 * board(x, y);
    const bands: Colour[] = [
      [225, 235, 250],
      [150, 165, 185],
      [70, 100, 80],
      [20 + grain, 60 + grain, 15 + grain],
    ];
    return bands[Math.floor((4 * y) / HEIGHT)];
  });

  test('grows from the sky to the grass, is the same each time, and uses all greys', () => {
    const depth = roughDepth(landscape, size);
    const bands = [0, 1, 2, 3].map((band) => mean(depth, [8, 18 * band + 4, WIDTH - 8, 18 * band + 14]));
    expect(bands).toEqual(bands.toSorted((a, b) => a - b));
    bands.slice(1).forEach((band, i) => {
      expect(band - bands[i]).toBeGreaterThan(15);
    });
    expect([Math.min(...depth.data), Math.max(...depth.data)]).toEqual([0, 255]);
    expect(roughDepth(landscape, size)).toEqual(depth);
    const twice = roughDepth(landscape, { width: 2 * WIDTH, height: 2 * HEIGHT });
    expect(Math.abs(mean(twice, [16, 116, 176, 136]) - bands[3])).toBeLessThan(25);
  });

  test('what is sharp, and what is not pale, is nearer than the rest at the same height', () => {
    const halves = (left: (x: number, y: number) => number, right: (x: number, y: number) => number) => {
      const depth = roughDepth(
        drawn((x, y) => {
          const value = x < WIDTH / 2 ? left(x, y) : right(x, y);
          return [value, value, value];
        }),
        size,
      );
      return mean(depth, [6, 20, 36, 52]) - mean(depth, [60, 20, 90, 52]);
    };
    const soft = (x: number) => 128 + 40 * Math.sin(x / 3);
    expect(halves((x, y) => 98 + 60 * board(x, y), soft)).toBeGreaterThan(15);
    expect(halves(soft, (x, y) => 98 + 60 * board(x, y))).toBeLessThan(-15);
    expect(
      halves(
        () => 60,
        () => 230,
      ),
    ).toBeGreaterThan(15);
  });

  test('changes where the picture does', () => {
    const depth = roughDepth(
      drawn((x) => (x < WIDTH / 2 ? [40, 40, 40] : [230, 230, 230])),
      size,
    );
    const row = Array.from({ length: WIDTH - 1 }, (_, x) =>
      Math.abs(depth.data[4 * (36 * WIDTH + x + 1)] - depth.data[4 * (36 * WIDTH + x)]),
    );
    expect(row.indexOf(Math.max(...row))).toBe(WIDTH / 2 - 1);
  });

  test('hidden colours count for nothing, and what is transparent is far', () => {
    const cut = (hidden: Colour) =>
      drawn((x, y) => (x < 30 ? ([hidden[0], hidden[1], hidden[2], 0] as const) : [60, y, 60]));
    const [one, other] = [cut([0, 0, 0]), cut([255, 0, 90])].map((picture) => roughDepth(picture, size));
    expect(one).toEqual(other);
    expect(mean(one, [0, 0, 29, HEIGHT])).toBe(0);
    expect(one.data.filter((_, i) => i % 4 === 3).every((alpha) => alpha === 255)).toBe(true);
  });

  test('takes pictures of any size', () => {
    const plain = { width: 1, height: 1, data: new Uint8ClampedArray([9, 9, 9, 255]) };
    expect([...roughDepth(plain, { width: 1, height: 1 }).data]).toEqual([128, 128, 128, 255]);
    const { width, height, data } = detected(plain, 'depth', { width: 16, height: 8 });
    expect([width, height]).toEqual([16, 8]);
    // Nothing is known but the place.
    const column = Array.from({ length: 8 }, (_, y) => data[4 * 16 * y]);
    expect(column).toEqual(column.toSorted((a, b) => a - b));
    expect([column[0], column[7]]).toEqual([0, 255]);
  });
});

describe('a ControlNet', () => {
  const open = () => openModel(architectureFiles('sd1'), startNodeEngine().engine);

  test('is known in both layouts, with and without their prefix', async () => {
    const model = await open();
    for (const file of [
      renamed('control-sd1', same),
      renamed('control-sd1-original', same),
      renamed('control-sd1-original', (name) => name.replace('control_model.', '')),
      renamed('control-lora-sd1', same),
    ]) {
      expect(await isControlNet(file, 'x')).toBe(true);
      await model.checkAddition?.('controlnet', { file, name: 'x' });
    }
    const files = [architectureFile('sdxl-kohya.safetensors'), architectureFile('sdxl.safetensors')];
    for (const file of files) {
      expect(await isControlNet(new Blob([file]), 'x')).toBe(false);
    }
  });

  test.each<[string, Blob, string]>([
    [
      'of Stable Diffusion XL',
      renamed('control-xl', same),
      'The ControlNet "x" was made for another kind of model: its cross_attention_dim is 80, and that of "sd1" is 32; choose one for this kind of checkpoint.',
    ],
    [
      'with a tensor that is unknown',
      renamed('control-sd1', (name) => name.replace('conv_in.bias', 'conv_in.more.bias')),
      'The ControlNet "x" has a tensor "conv_in.more.bias" that Darkroom does not know, so it would not be run as it was trained; choose another one.',
    ],
    [
      'that is incomplete',
      renamed('control-sd1', (name) => (name === 'controlnet_mid_block.weight' ? null : name)),
      'The checkpoint lacks the tensor "controlnet_mid_block.weight" of its ControlNetModel; download or copy it again, or choose another checkpoint.',
    ],
    [
      'that is half a Control-LoRA',
      renamed('control-lora-sd1', (name) => (name === 'input_blocks.1.0.in_layers.2.up' ? null : name)),
      'The ControlNet "x" has only part of its change of "down_blocks.0.resnets.0.conv1.weight"; get it again.',
    ],
    [
      'that is a Control-LoRA of Stable Diffusion XL',
      renamed('control-lora-xl', same),
      'The ControlNet "x" was made for another kind of model: its add_embedding.linear_1.weight is 128, 88, and that of "sd1" is 0; choose one for this kind of checkpoint.',
    ],
    [
      'that is only a difference',
      renamed('control-sd1-original', (name) => (name.endsWith('input_blocks.0.0.bias') ? 'difference' : name)),
      'x holds only how a ControlNet differs from its checkpoint, which Darkroom cannot run; choose a whole ControlNet.',
    ],
  ])('%s is refused in one sentence, and nothing is changed', async (_, file, message) => {
    const model = await open();
    await model.useAdditions?.({ controlnets: [{ file: renamed('control-sd1', same), name: 'good' }] });
    await expect(model.useAdditions?.({ controlnets: [{ file, name: 'x' }] })).rejects.toMatchObject({
      message: expect.stringContaining(message) as string,
    });
    expect((await model.provenance()).controlnets).toMatchObject([{ name: 'good' }]);
  });

  test.each([
    [
      'union-xl',
      undefined,
      'The ControlNet x is for several kinds of pictures; say in "kind" what its picture shows: pose, depth, scribble, lines, normal, segments.',
    ],
    [
      'union-xl',
      'tile',
      'The ControlNet x is for several kinds of pictures; say in "kind" what its picture shows: pose, depth, scribble, lines, normal, segments.',
    ],
    ['control-xl', 'lines', 'The ControlNet x is for one kind of pictures, so "kind" changes nothing; leave it out.'],
  ])('%s told of the kind %s is refused', async (name, kind, message) => {
    const model = await openModel(architectureFiles('sdxl'), startNodeEngine().engine);
    await model.useAdditions?.({ controlnets: [{ file: renamed(name, same), name: 'x' }] });
    const one = { prompt: 'a', width: 16, height: 16, steps: 1, seed: '1', guidance_scale: 1 };
    const controlnets = [{ controlnet: 'x', ...(kind && { kind }) }];
    const parameters = { ...one, controlnets, control_images: ['small.png'] };
    const run = paint(model, { operation: 'image_generation', config: 'stable_diffusion', parameters }, EDGES);
    await expect(run).rejects.toMatchObject({ message });
  });

  test('that is none is refused', async () => {
    await expect(requireControlNet(new Blob([architectureFile('sdxl-kohya.safetensors')]), 'kohya')).rejects.toThrow(
      'kohya is not a ControlNet; choose one for Stable Diffusion 1, 2 or XL.',
    );
  });

  test('is recorded with how it is used', async () => {
    const model = await open();
    const use = { weight: 0.5, start: 0, end: 1, detector: 'canny' };
    const file = new Blob([architectureFile('control-sd1.safetensors')]);
    const addition = { file, name: 'lines', ref: 'controlnet:import:lines', sha256: 'abc', use };
    await model.useAdditions?.({ controlnets: [addition] });
    expect((await model.provenance()).controlnets).toEqual([
      { controlnet: 'controlnet:import:lines', name: 'lines', sha256: 'abc', ...use },
    ]);
  });

  test('counts in the estimate as what it is on the device', async () => {
    const model = await open();
    const request = {
      operation: 'image_generation',
      width: 32,
      height: 32,
      batch_size: 1,
      steps: 4,
      guidance_scale: 7,
    };
    const [plain, led] = await Promise.all([model.toLoad(request), model.toLoad({ ...request, controlnets: 1 })]);
    const unet = led.get('unet') ?? 0;
    expect(unet).toBe(plain.get('unet'));
    expect(led.get('controlnet.0')).toBeGreaterThan(unet / 4);
    expect(led.get('controlnet.0')).toBeLessThan(unet);
  });
});

test('an operation has a picture for each ControlNet, and each starts before it ends', () => {
  const wrong = (more: object) => {
    const result = v.safeParse(parameters, { operation: 'image_generation', prompt: 'a fox', ...more });
    return result.issues?.[0].message;
  };
  const picture = 'data:image/png;base64,AA==';
  const control = { controlnet: 'lines' };
  expect(wrong({ controlnets: [control], control_images: [picture] })).toBeUndefined();
  expect(wrong({ controlnets: [control] })).toBe(
    'control_images must be as many pictures as there are controlnets, in the same order; give each ControlNet its picture.',
  );
  expect(wrong({ controlnets: [{ ...control, start: 0.5, end: 0.5 }], control_images: [picture] })).toBe(
    'The start of a ControlNet must lie before its end.',
  );
  expect(wrong({ controlnets: [{ ...control, weight: 9 }], control_images: [picture] })).toBe(
    'weight must be a number from 0 to 4.',
  );
});
