/** Large pictures painted in tiles: how tiles lie and blend, what is asked, going on, and ending. Pictures are compared by test/fidelity/pictures.ts. */
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { parameters } from '../chunks/output_image_stable_diffusion.ts';
import { estimateRequest, upscalingRequest } from '../src/core/fit.ts';
import type { PixelImage } from '../src/core/media.ts';
import type { CheckpointSummary, Conditioning, Latents, Model, SampleRequest, Upscaler } from '../src/core/model.ts';
import { TileJoiner, layTiles, type Seam } from '../src/core/picture_tiles.ts';
import { resizeLanczos } from '../src/core/pillow_resize.ts';
import { paintInTiles } from '../src/core/tiled_painting.ts';
import { tiling } from '../src/core/tiling.ts';
import { openModel } from '../src/models/family.ts';
import { folderFiles } from './checkpoint_folder.ts';
import { goldenCases, paint } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';

const root = join(import.meta.dirname, 'goldens', 'pipelines');
const caseOf = (name: string) => goldenCases(root).find((one) => one.name === name)!;
const checkpointOf = (name: string) => folderFiles(join(import.meta.dirname, 'checkpoints', name));

/** Not smooth, so that a tile put in a wrong place shows. */
function drawn(width: number, height: number): PixelImage {
  const data = Uint8ClampedArray.from({ length: 4 * width * height }, (_, i) =>
    i % 4 === 3 ? 255 : 128 + 120 * Math.sin((i >> 2) / 3 + (i % 4)) * Math.cos(Math.floor((i >> 2) / width) / 5),
  );
  return { width, height, data };
}

describe('tiles', () => {
  test.each<[length: number, side: number, seam: Seam, scale: number]>([
    [97, 64, { margin: 24, fade: 4 }, 2],
    [200, 64, { margin: 24, fade: 4 }, 2],
    [209, 128, { margin: 24, fade: 4 }, 2],
    [500, 256, { margin: 24, fade: 4 }, 1],
    // Three tiles share pixels where the last ones are pushed together.
    [130, 64, { margin: 16, fade: 16 }, 1],
    [97, 64, { margin: 16, fade: 16 }, 1],
    [121, 64, { margin: 0, fade: 0 }, 1],
  ])('of %d pixels, %d wide: weights add up to 1, and what was cut is put together', (length, side, seam, scale) => {
    const size = { width: length, height: Math.max(side + 1, Math.round(length / 2)) };
    const tiles = layTiles(size, side, seam);
    expect(new Set(tiles.map(({ width, height }) => `${width}×${height}`)).size).toBe(1);
    const value = (x: number, y: number) => Math.sin(x / 7) + Math.cos(y / 5);
    const rows: [Float32Array, Float32Array][] = [];
    const joiner = new TileJoiner(size, side, seam, scale, (y, [red, ones]) => {
      expect(y).toBe(rows.length);
      rows.push([red.slice(), ones.slice()]);
    });
    for (const tile of tiles) {
      const [width, height] = [tile.width * scale, tile.height * scale];
      const colours = Float32Array.from({ length: 3 * width * height }, (_, i) =>
        i < width * height
          ? value(tile.left * scale + (i % width), tile.top * scale + (Math.floor(i / width) % height))
          : 1,
      );
      joiner.add(tile, colours);
    }
    expect(rows.length).toBe(size.height * scale);
    const furthest = rows.map(([red, ones], y) =>
      red.reduce(
        (most, one, x) => Math.max(most, Math.abs(one - value(x, y)), Math.abs(ones[x] - 1)),
        Number(red.length !== length * scale),
      ),
    );
    expect(Math.max(...furthest)).toBeLessThan(1e-5);
  });

  test('one passes into the next without a step, also where three share pixels', () => {
    const size = { width: 64, height: 130 };
    const seam = { margin: 16, fade: 16 };
    const column: number[] = [];
    const joiner = new TileJoiner(size, 64, seam, 1, (_, [red]) => column.push(red[0]));
    const tiles = layTiles(size, 64, seam);
    expect(tiles.length).toBe(4);
    // Each row of tiles is of a colour of its own.
    tiles.forEach((tile) => {
      joiner.add(tile, new Float32Array(3 * 64 * 64).fill(tile.row % 2));
    });
    const steps = column.slice(1).map((value, y) => Math.abs(value - column[y]));
    expect(Math.max(...steps)).toBeLessThanOrEqual(1 / 32 + 1e-6);
    expect(Math.max(...column)).toBeGreaterThan(0.3);
  });
});

test.each([
  [{ tiled_scale: 2 }, null],
  [{ tiled_scale: 1, tiled_size: 512, tiled_overlap: 0, tiled_upscaler: 'lanczos' }, null],
  [{ tiled_scale: 2, tiled_upscaler: 'builtin:realesr-animevideov3' }, null],
  [{ tiled_scale: 0.5 }, 'tiled_scale must be a number from 1 to 4.'],
  [{ tiled_scale: 2, tiled_size: 100 }, 'tiled_size must be a multiple of 8 from 64 to 2048 pixels.'],
  [{ tiled_scale: 2, tiled_overlap: -1 }, 'tiled_overlap must be a whole number from 0 to 512.'],
  [{ tiled_scale: 2, tiled_upscaler: 'magic' }, /^tiled_upscaler must be lanczos, or /],
  [{ tiled_size: 512 }, /^tiled_scale counts only for image_transform, and /],
  [{ tiled_scale: 2, operation: 'image_generation', image: undefined }, /^tiled_scale counts only for image_transform/],
])('%o', (given, expected) => {
  const image = 'data:image/png;base64,';
  const result = v.safeParse(parameters, { operation: 'image_transform', image, prompt: 'a fox', ...given });
  if (expected === null) {
    expect(result.success).toBe(true);
  } else {
    expect(result.issues?.[0].message).toMatch(expected);
  }
});

test('what it takes is that of a tile, as often as there are tiles', () => {
  const checkpoint = { defaults: { width: 512, height: 512 } } as CheckpointSummary;
  const asked = { steps: 20, strength: 0.3, tiled_scale: 2, tiled_upscaler: 'import:twice' };
  const operation = 'image_transform';
  const request = estimateRequest({ operation, parameters: asked }, checkpoint, { width: 700, height: 500 });
  // 1400 in three tiles of 512 that share at least 64, and 1000 in three.
  expect(request).toMatchObject({ width: 512, height: 512, steps: 9 * 20, whole: { width: 1400, height: 1000 } });
  expect(upscalingRequest(request!, asked)).toMatchObject({ width: 700, height: 500 });
  expect(tiling({ tiled_scale: 1.5 }, { width: 101, height: 60 }, { width: 512, height: 512 })).toEqual({
    whole: { width: 144, height: 88 },
    tile: { width: 144, height: 88 },
    count: 1,
  });
});

/** A checkpoint that changes nothing, as at a strength near 0. */
class Unchanging {
  readonly summary = { name: 'unchanging', defaults: { width: 64, height: 64 } } as CheckpointSummary;
  readonly held = new Set<Latents>();
  readonly sampled: { seed: number; phased: unknown; control: PixelImage | undefined }[] = [];

  latentsFrom = ({ dims, data }: { dims: readonly number[]; data: Float32Array }): Latents => {
    const latents = {
      dims: dims as Latents['dims'],
      read: () => Promise.resolve(new Float32Array(data)),
      dispose: () => this.held.delete(latents),
    };
    this.held.add(latents);
    return latents;
  };

  encodeImage({ width, height, data }: PixelImage): Promise<Latents> {
    return Promise.resolve(this.latentsFrom({ dims: [1, 4, height, width], data: Float32Array.from(data) }));
  }

  async sample(_: Conditioning, request: SampleRequest): Promise<Latents> {
    const { start, random, phased, controls } = request;
    this.sampled.push({ seed: random.ofStart([1, 1, 1, 1])[0], phased, control: controls?.[0].picture });
    request.onStart(2, 0);
    await request.onStep({ step: 1, steps: 2, preview: null });
    await request.onStep({ step: 2, steps: 2, preview: null });
    return this.latentsFrom({ dims: start!.dims, data: await start!.read() });
  }

  async decode(latents: Latents): Promise<PixelImage[]> {
    const [, , height, width] = latents.dims;
    return [{ width, height, data: Uint8ClampedArray.from(await latents.read()) }];
  }
}

function requestOf(more: Partial<SampleRequest> = {}): SampleRequest {
  const { signal } = new AbortController();
  const nothing = () => undefined;
  return {
    batch_size: 1,
    signal,
    resume: null,
    keep: nothing,
    onStart: nothing,
    onStep: nothing,
    ...more,
  } as SampleRequest;
}

const watch = { onEncoded: () => undefined, onSampled: () => Promise.resolve(), onDecoded: () => undefined };
const paintWith = (
  model: Unchanging,
  input: object,
  picture: PixelImage,
  request = requestOf(),
  load: (ref: string) => Promise<Upscaler> = () => Promise.reject(new Error('no upscaler')),
) =>
  paintInTiles(
    model as unknown as Model,
    {} as Conditioning,
    request,
    { seed: '5', batch_size: 1, ...input },
    picture,
    load,
    watch,
  );

test('where nothing changes, the enlarged picture comes back, within one level', async () => {
  const model = new Unchanging();
  const picture = drawn(75, 50);
  const shown: [number, number][] = [];
  const onStep: SampleRequest['onStep'] = ({ step, steps }) => void shown.push([step, steps]);
  const control = { picture: drawn(20, 10), detector: 'none' as const, weight: 1, start: 0, end: 1 };
  const request = requestOf({ onStep, phased: true, controls: [control] });
  const [made] = await paintWith(model, { tiled_scale: 2, tiled_overlap: 32 }, picture, request);
  expect([made.width, made.height]).toEqual([144, 96]);
  const expected = resizeLanczos(picture, 144, 96);
  const furthest = made.data.reduce((most, value, i) => Math.max(most, Math.abs(value - expected.data[i])), 0);
  expect(furthest).toBeLessThanOrEqual(1);
  // Four by two tiles, each with its own seed, the first of which clears the device; progress is that of all.
  expect(model.sampled.length).toBe(8);
  expect(new Set(model.sampled.map(({ seed }) => seed)).size).toBe(8);
  expect(model.sampled.map(({ phased }) => phased)).toEqual([true, ...new Array<boolean>(7).fill(false)]);
  expect(shown.map(([step]) => step)).toEqual(Array.from({ length: 16 }, (_, n) => n + 1));
  expect(new Set(shown.map(([, steps]) => steps))).toEqual(new Set([16]));
  const { control: seen } = model.sampled[1];
  expect(seen?.width).toBe(64);
  // The second tile begins a third of the way to the last, at 27.
  expect([...seen!.data.subarray(0, 4)]).toEqual([
    ...resizeLanczos(control.picture, 144, 96).data.subarray(4 * 27, 4 * 28),
  ]);
  expect(model.held.size).toBe(0);
});

test('an upscaler enlarges first, and what cannot be is refused in a sentence', async () => {
  const model = new Unchanging();
  const asked: string[] = [];
  const load = (ref: string) => {
    asked.push(ref);
    const upscale = ({ width, height }: PixelImage) =>
      Promise.resolve({
        width: 2 * width,
        height: 2 * height,
        data: new Uint8ClampedArray(16 * width * height).fill(77),
      });
    return Promise.resolve({ upscale } as unknown as Upscaler);
  };
  const [made] = await paintWith(
    model,
    { tiled_scale: 4, tiled_upscaler: 'import:twice' },
    drawn(32, 24),
    requestOf(),
    load,
  );
  expect([made.width, made.height, made.data[0], asked.length]).toEqual([128, 96, 77, 1]);

  await expect(paintWith(model, { tiled_scale: 2, tiled_overlap: 40 }, drawn(64, 64))).rejects.toThrow(
    'tiled_overlap is 40, more than half of the tiles of 64 pixels; choose at most 32.',
  );
  await expect(paintWith(model, { tiled_scale: 1 }, drawn(64, 9))).rejects.toThrow(/is only 64×9 pixels/);
  await expect(paintWith(model, { tiled_scale: 4, width: 4096, height: 4096 }, drawn(64, 64))).rejects.toThrow(
    /16384×16384 pixels is more than can be used/,
  );
  const other = Object.assign(new Unchanging(), { latentsFrom: undefined }) as unknown as Unchanging;
  await expect(paintWith(other, { tiled_scale: 1 }, drawn(64, 64))).rejects.toThrow(/does not paint in tiles/);
});

test('cancelled between two tiles it ends, and holds nothing', async () => {
  const model = new Unchanging();
  const controller = new AbortController();
  const onStep: SampleRequest['onStep'] = ({ step }) => {
    if (step === 4) {
      controller.abort();
    }
  };
  const request = requestOf({ onStep, signal: controller.signal });
  await expect(paintWith(model, { tiled_scale: 2 }, drawn(64, 64), request)).rejects.toMatchObject({
    code: 'cancelled',
  });
  expect(model.sampled.length).toBe(2);
  expect(model.held.size).toBe(0);
});

test('interrupted after any tile it goes on to the same pictures, with noise in its steps, too', async () => {
  const one = caseOf('turbo-tiled');
  const model = await openModel(checkpointOf(one.checkpoint), startNodeEngine().engine);
  const kept: unknown[] = [];
  const folder = join(root, one.name);
  const whole = await paint(model, one, folder, { keep: (state) => kept.push(structuredClone(state)) });
  expect(kept.length).toBe(2);
  const torn = { ...(kept[1] as object), dims: [2, 4, 2, 2] };
  for (const [resume, from] of [
    [kept[0], 2],
    [kept[1], undefined],
    [torn, 0],
  ] as const) {
    const done: number[] = [];
    const again = await paint(model, one, folder, {
      resume,
      progress: (stage, step) => void (stage === 'sample' && done.push(step ?? 0)),
    });
    expect(again.latents.data).toEqual(whole.latents.data);
    expect(again.images.map(({ data }) => data)).toEqual(whole.images.map(({ data }) => data));
    // Finished tiles, of two steps each, are not painted again.
    expect(done.at(0)).toBe(from);
  }
  await model.release();
});
