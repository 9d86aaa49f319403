/** Hires fix: the enlargement of latents, what its parameters may be, and going on with it. Its pictures are compared by test/fidelity/pictures.ts. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { parameters } from '../chunks/output_image_stable_diffusion.ts';
import type { Context } from '../src/core/chunk.ts';
import { hiresSide } from '../src/core/hires.ts';
import { LATENT_UPSCALERS, resizeLatents } from '../src/core/latent_resize.ts';
import type { PixelImage } from '../src/core/media.ts';
import { openModel } from '../src/models/family.ts';
import { folderFiles } from './checkpoint_folder.ts';
import { differencesFrom, goldenCases, goldenTensor, paint } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';

const goldens = join(import.meta.dirname, 'goldens');

describe('latents are enlarged as torch does it', () => {
  const file = new Uint8Array(readFileSync(join(goldens, 'latent_resize.safetensors')));
  const latents = { dims: [2, 4, 5, 7], data: new Float32Array(goldenTensor(file, 'latents')) };

  test.each(LATENT_UPSCALERS)('%s', (how) => {
    const { dims, data } = resizeLatents(latents, 8, 12, how);
    const expected = goldenTensor(file, how);
    expect(dims).toEqual([2, 4, 8, 12]);
    expect(data.length).toBe(expected.length);
    expect(data.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0)).toBeLessThan(1e-5);
  });

  test('the six are not the same', () => {
    const all = LATENT_UPSCALERS.map((how) => resizeLatents(latents, 8, 12, how).data.join());
    // Antialiasing does nothing to bilinear interpolation while it enlarges.
    expect(new Set(all).size).toBeGreaterThanOrEqual(5);
  });
});

test.each([
  [{ hires_scale: 2 }, null],
  [{ hires_scale: 1 }, null],
  [{ hires_scale: 1.5, hires_steps: 4, hires_denoising_strength: 0.5, hires_upscaler: 'lanczos' }, null],
  [{ hires_scale: 5 }, 'hires_scale must be a number from 1 to 4.'],
  [{ hires_scale: 2, hires_upscaler: 'builtin:realesr-animevideov3' }, null],
  [{ hires_scale: 2, hires_upscaler: 'magic' }, /^hires_upscaler must be one of latent, /],
  [{ hires_scale: 2, hires_denoising_strength: 0 }, 'hires_denoising_strength must be a number above 0 and up to 1.'],
  [{ hires_steps: 4 }, /^A second pass \(hires\)/],
  [{ hires_scale: 2, operation: 'image_transform', image: 'data:image/png;base64,' }, /^A second pass \(hires\)/],
])('%o', (given, expected) => {
  const result = v.safeParse(parameters, { operation: 'image_generation', prompt: 'a fox', ...given });
  if (expected === null) {
    expect(result.success).toBe(true);
  } else {
    expect(result.issues?.[0].message).toMatch(expected);
  }
});

test('sides are multiples of 8', () => {
  expect([hiresSide(512, 1.5), hiresSide(64, 1.3), hiresSide(64)]).toEqual([768, 80, 64]);
});

test('interrupted in either pass it goes on to the same picture, and shows how far it is', async () => {
  const root = join(goldens, 'pipelines');
  const one = goldenCases(root).find(({ name }) => name === 'sd15-hires-nearest')!;
  const model = await openModel(
    folderFiles(join(import.meta.dirname, 'checkpoints', one.checkpoint)),
    startNodeEngine().engine,
  );
  const kept: unknown[] = [];
  const shown: [number, number][] = [];
  const whole = await paint(model, one, root, {
    keep: (state) => kept.push(structuredClone(state)),
    progress: (stage, step, steps) => {
      if (stage === 'sample') {
        shown.push([step ?? 0, steps ?? 0]);
      }
    },
  });
  expect(shown.map(([step]) => step)).toEqual([0, 1, 2, 3, 3, 4, 5]);
  expect(new Set(shown.map(([, steps]) => steps))).toEqual(new Set([5]));
  // At least the first and the last step of each pass.
  expect(kept.length).toBeGreaterThanOrEqual(4);
  const ofSecond = kept.filter((state) => typeof state === 'object' && state !== null && 'enlarged' in state);
  expect(ofSecond.length).toBeGreaterThanOrEqual(2);
  for (const resume of kept) {
    const again = await paint(model, one, root, { resume });
    expect(again.latents.data).toEqual(whole.latents.data);
  }
  // What belongs to another size counts as nothing.
  const [state] = ofSecond as [{ enlarged: { dims: number[]; data: Float32Array } }];
  const torn = { ...state, enlarged: { dims: [1, 4, 2, 2], data: new Float32Array(16) } };
  const fresh = await paint(model, one, root, { resume: torn });
  expect(fresh.latents.data).toEqual(whole.latents.data);
  await model.release();
});

test('an upscaler enlarges between the passes, as often as it takes', async () => {
  const root = join(goldens, 'pipelines');
  const one = goldenCases(root).find(({ name }) => name === 'sd15-hires-upscaler')!;
  const files = folderFiles(join(import.meta.dirname, 'checkpoints', one.checkpoint));
  const { latents, pixels } = await differencesFrom(root, one, files);
  expect(latents).toBeLessThan(1e-3);
  expect(pixels).toBeLessThanOrEqual(2);

  const model = await openModel(files, startNodeEngine().engine);
  const asked: string[] = [];
  const seen: number[] = [];
  const twice = (image: PixelImage): PixelImage => ({
    width: 2 * image.width,
    height: 2 * image.height,
    data: new Uint8ClampedArray(16 * image.width * image.height).fill(image.width),
  });
  const loadUpscaler = (ref: string) => {
    asked.push(ref);
    const upscale = (image: PixelImage) => {
      seen.push(image.width);
      return Promise.resolve(twice(image));
    };
    return Promise.resolve({ upscale });
  };
  const models = { load: () => Promise.resolve(model), loadUpscaler } as unknown as Context['models'];
  const parameters = { ...one.parameters, hires_scale: 4, hires_steps: 2, hires_upscaler: 'import:twice' };
  const { images } = await paint(model, { ...one, parameters }, root, { models });
  expect([images[0].width, images[0].height]).toEqual([64, 64]);
  expect(asked).toEqual(['import:twice']);
  expect(seen).toEqual([16, 32]);
  await model.release();
});
