/**
 * Pictures are upscaled in the browser, on both backends, like the reference's: by the upscaler that comes with the page, as a step after
 * painting, and by files from disk. What is shown, recorded and written into the picture says so.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { UPSCALER } from '../../src/core/builtin_checkpoints.ts';
import { shippedGolden, upscalerGoldens } from '../../test/upscaler_goldens.ts';
import { openDoor, openFile, runOperation, type Outcome } from '../fixtures/door.ts';

const UPSCALE = { operation: 'image_upscale', config: 'image_upscale' };
/** One step of the built-in checkpoint that needs few. */
const PAINT = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  checkpoint: 'builtin:scenes-4-steps',
  parameters: { prompt: 'a house in the desert', steps: 1, guidance_scale: 1, seed: '7', width: 64, height: 64 },
};

const folder = mkdtempSync(join(tmpdir(), 'darkroom-upscalers-'));
test.afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A picture as the data URL of a PNG, painted by the browser. */
function pngOf(page: Page, { width, height, data }: { width: number; height: number; data: ArrayLike<number> }) {
  return page.evaluate(
    async ([width, height, data]) => {
      const canvas = new OffscreenCanvas(width, height);
      canvas.getContext('2d')?.putImageData(new ImageData(new Uint8ClampedArray(data), width, height), 0, 0);
      const bytes = new Uint8Array(await (await canvas.convertToBlob({ type: 'image/png' })).arrayBuffer());
      return `data:image/png;base64,${btoa(String.fromCharCode(...bytes))}`;
    },
    [width, height, Array.from(data)] as const,
  );
}

/** Largest colour difference from [3, height, width] bytes. */
function difference({ pictures: [{ width, height, rgba }] }: Outcome, expected: ArrayLike<number>): number {
  expect(expected.length).toBe(3 * width * height);
  let most = 0;
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      most = Math.max(most, Math.abs(rgba[4 * i + c] - expected[c * width * height + i]));
    }
  }
  return most;
}

for (const backend of ['wasm', 'webgpu'] as const) {
  test(`the upscaler that comes with the page does what ncnn does, on ${backend}`, async ({ page }) => {
    const { picture, expected } = shippedGolden();
    await openDoor(page, backend);
    const image = await pngOf(page, picture);
    for (const scale of [4, 2]) {
      // The default without a checkpoint.
      const outcome = await runOperation(page, { ...UPSCALE, parameters: { image, scale } });
      expect(outcome.job.error).toBeNull();
      expect(difference(outcome, expected.get(scale) ?? [])).toBeLessThanOrEqual(2);
    }
  });

  test(`files from the disk do what their reference does, on ${backend}`, async ({ page }) => {
    const named = backend === 'wasm' ? /./ : /^(rrdbnet-x2|srvgg-x4)$/;
    await openDoor(page, backend);
    for (const { name, file, picture, expected } of upscalerGoldens().filter((golden) => named.test(golden.name))) {
      const path = join(folder, `${name}.safetensors`);
      writeFileSync(path, file);
      const checkpoint = await openFile(page, path);
      const image = await pngOf(page, picture);
      const outcome = await runOperation(page, { ...UPSCALE, checkpoint, parameters: { image } });
      expect(outcome.job.error, name).toBeNull();
      const bytes = Uint8ClampedArray.from(expected, (value) => 255 * value);
      expect(difference(outcome, bytes), name).toBeLessThanOrEqual(2);
    }
  });
}

test('painted, then enlarged: both are recorded, and both say how they were made', async ({ page }) => {
  await openDoor(page, 'wasm');
  const small = await runOperation(page, PAINT);
  const large = await runOperation(page, { ...PAINT, checkpoints: { upscale: UPSCALER } });
  expect([small, large].map(({ pictures: [{ width, height }] }) => [width, height])).toEqual([
    [64, 64],
    [256, 256],
  ]);
  const { entities } = large.job;
  expect(entities.map(({ type }) => type)).toEqual(['input', 'config', 'encoded_prompt', 'output', 'output_image']);
  const [painted, enlarged] = entities.slice(-2).map(({ metadata }) => metadata);
  expect(painted).toMatchObject({ step: 'output', seed: '7', width: 64, checkpoint: { ref: PAINT.checkpoint } });
  expect(painted).not.toHaveProperty('upscale');
  expect(enlarged).toMatchObject({
    step: 'upscale',
    operation: 'image_generation',
    parameters: { prompt: PAINT.parameters.prompt, steps: 1 },
    seed: '7',
    width: 256,
    checkpoint: { ref: PAINT.checkpoint },
    upscale: { scale: 4, checkpoint: { ref: UPSCALER, pipeline_class: 'SRVGGNetCompact' } },
  });
  const text = await page.evaluate(
    async ([run, file]) => {
      const blob = await globalThis.darkroom?.entity(run, file);
      return new TextDecoder('latin1').decode(await blob?.arrayBuffer());
    },
    [large.job.run ?? '', entities[entities.length - 1].filename] as const,
  );
  // The size is that of the painted picture, as in AUTOMATIC1111.
  expect(text).toContain('Size: 64x64');
  expect(text).toContain('Postprocess upscale by: 4, Postprocess upscaler: realesr-animevideov3');

  // A job whose upscaling failed continues: the painted picture is there, and the request still says what was asked for.
  const image = await pngOf(page, { width: 16, height: 16, data: new Uint8Array(4 * 16 * 16).fill(255) });
  const goneOn = await page.evaluate(
    async ([operation, url]) => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const picture = await (await fetch(url)).blob();
      const { id } = await door.submit({ ...operation, given: { output: { images: [picture] } } });
      const { error, entities } = await door.wait(id);
      return { error: error?.message ?? null, metadata: entities.at(-1)?.metadata };
    },
    [{ ...PAINT, checkpoints: { upscale: UPSCALER } }, image] as const,
  );
  expect(goneOn).toMatchObject({
    error: null,
    metadata: { width: 64, seed: '7', parameters: { prompt: PAINT.parameters.prompt }, upscale: { scale: 4 } },
  });
});

test('transparency is kept, and what cannot be done is refused in one sentence', async ({ page }) => {
  await openDoor(page, 'wasm');
  const half = Uint8ClampedArray.from({ length: 4 * 16 * 16 }, (_, i) =>
    i % 4 === 3 ? ((i >> 2) % 16 < 8 ? 255 : 0) : 200,
  );
  const image = await pngOf(page, { width: 16, height: 16, data: half });
  const { job, pictures } = await runOperation(page, { ...UPSCALE, parameters: { image } });
  expect(job.notices).toEqual([]);
  const [{ width, rgba }] = pictures;
  expect([8, 56].map((x) => rgba[4 * (32 * width + x) + 3])).toEqual([255, 0]);

  const fails = async (operation: object) => (await runOperation(page, operation)).job.error?.message;
  expect(await fails({ ...UPSCALE, parameters: { image, scale: 8 } })).toBe(
    'scale is 8, but "realesr-animevideov3" takes 2 to 4; choose another scale or another upscaler.',
  );
  expect(await fails({ ...UPSCALE, checkpoint: PAINT.checkpoint, parameters: { image } })).toMatch(
    /^"Darkroom scenes, 4 steps" is a StableDiffusionPipeline, which the step "output" of the config "image_upscale" cannot run/,
  );
  expect(await fails({ ...PAINT, parameters: { ...PAINT.parameters, scale: 2 } })).toBe(
    'The parameter object has an unknown field "scale"; remove it or check its spelling.',
  );
});

test('the page enlarges what the built-in checkpoint paints, unless somebody switches that off, and again at a press', async ({
  page,
}) => {
  await page.goto('/?backend=wasm');
  const generate = page.getByRole('button', { name: /^Generate/ });
  await expect(generate).toBeEnabled();
  await page.getByRole('button', { name: 'Use Darkroom scenes, 4 steps Built in' }).click();
  const scales = page.getByRole('radiogroup', { name: 'Upscale' });
  await expect(scales.getByRole('radio', { name: '4 ×' })).toBeChecked();
  await page.getByText('More settings').click();
  await page.getByRole('textbox', { name: 'Steps', exact: true }).fill('1');
  await page.getByRole('textbox', { name: 'Width', exact: true }).fill('64');
  await page.getByRole('textbox', { name: 'Height', exact: true }).fill('64');
  const result = page.getByRole('figure').getByRole('img').first();

  await generate.click();
  await expect(result).toHaveJSProperty('naturalWidth', 256, { timeout: 120_000 });
  await expect(page.getByText('256 × 256')).toBeVisible();
  await expect(page.getByText('4 times')).toBeVisible();

  await scales.getByText('Off').click();
  await generate.click();
  await expect(result).toHaveJSProperty('naturalWidth', 64, { timeout: 120_000 });

  await page.getByRole('button', { name: 'Upscale', exact: true }).click();
  await expect(result).toHaveJSProperty('naturalWidth', 256, { timeout: 120_000 });
  const [last] = (await page.evaluate(() => globalThis.darkroom?.runs({ limit: 1 }))) ?? [];
  expect(last.operation).toMatchObject({ operation: 'image_upscale', checkpoint: UPSCALER });

  // The form of the upscaler alone, with what comes with the page in it.
  await page.getByLabel('What to make it with').selectOption({ label: 'Upscaler' });
  await expect(page.getByText('realesr-animevideov3', { exact: true }).first()).toBeVisible();
  await expect(generate).toBeEnabled();
});

test('a second pass is chosen in the form, painted, and written into the picture', async ({ page }, info) => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.goto('/?backend=wasm');
  await expect(page.getByRole('button', { name: /^Generate/ })).toBeEnabled();
  await page.getByRole('button', { name: 'Use Darkroom scenes, 4 steps Built in' }).click();
  await page.getByText('More settings').click();
  await page.getByRole('textbox', { name: 'Width', exact: true }).fill('64');
  await page.getByRole('textbox', { name: 'Height', exact: true }).fill('48');
  await page.getByRole('textbox', { name: 'Steps', exact: true }).fill('2');
  await page.getByRole('radiogroup', { name: 'Upscale' }).getByText('Off').click();
  await page.getByRole('textbox', { name: 'Second pass (hires)' }).fill('1.5');
  await expect(page.getByText('The picture will have 96 × 72 pixels.')).toBeVisible();
  await page.getByRole('textbox', { name: 'Steps of the second pass' }).fill('2');
  await page.getByRole('textbox', { name: 'Strength of the second pass' }).fill('0.5');
  await page.getByLabel('Enlarged between the passes', { exact: true }).selectOption('Latents, nearest (exact)');
  await page.getByText('The picture will have 96 × 72 pixels.').scrollIntoViewIfNeeded();
  await page.screenshot({ path: info.outputPath('hires-390.png') });
  await page.getByRole('button', { name: /^Generate/ }).click();
  await expect(page.getByRole('figure').getByRole('img').first()).toHaveJSProperty('naturalWidth', 96, {
    timeout: 120_000,
  });
  const [text, width, height] = await page.evaluate(async () => {
    const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
    const entity = run.entities.find(({ type }) => type === 'output_image');
    const blob = await globalThis.darkroom?.entity(run.run_id, entity?.filename ?? '');
    const bitmap = await createImageBitmap(blob as Blob);
    return [new TextDecoder('latin1').decode(await blob?.arrayBuffer()), bitmap.width, bitmap.height];
  });
  expect([width, height]).toEqual([96, 72]);
  expect(text).toContain('Size: 64x48');
  expect(text).toContain('Hires upscale: 1.5, Hires steps: 1, Hires upscaler: Latent (nearest-exact)');

  // An upscaler between the passes is a checkpoint of its own, which the recording names.
  await page.getByLabel('Enlarged between the passes', { exact: true }).selectOption('realesr-animevideov3');
  await page.getByText('The picture will have 96 × 72 pixels.').scrollIntoViewIfNeeded();
  await page.screenshot({ path: info.outputPath('hires-upscaler-390.png') });
  const before = await page.evaluate(() => globalThis.darkroom?.runs({ limit: 1 }));
  await page.getByRole('button', { name: /^Generate/ }).click();
  const newest = () =>
    page.evaluate(async () => {
      const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
      return { id: run.run_id, metadata: run.entities.find(({ type }) => type === 'output_image')?.metadata ?? null };
    });
  await expect
    .poll(
      async () => {
        const { id, metadata } = await newest();
        return id !== before?.[0].run_id && metadata;
      },
      { timeout: 120_000 },
    )
    .toMatchObject({
      width: 96,
      height: 72,
      parameters: { hires_upscaler: UPSCALER },
      hires_upscaler: { ref: UPSCALER, name: 'realesr-animevideov3', pipeline_class: 'SRVGGNetCompact' },
    });
});

test('what is no upscaler is refused as one, before anything runs', async ({ page }) => {
  await openDoor(page, 'wasm');
  const parameters = { ...PAINT.parameters, hires_scale: 1.5, hires_upscaler: PAINT.checkpoint };
  expect((await runOperation(page, { ...PAINT, parameters })).job.error?.message).toBe(
    '"Darkroom scenes, 4 steps" is a StableDiffusionPipeline, which hires_upscaler cannot run; choose a checkpoint of the family RRDBNet or SRVGGNetCompact.',
  );
});
