/** A picture that is widened, or painted in tiles, and a plot: made in the form, recorded, and there again after a reload. */
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { CHECKPOINTS } from '../fixtures/door.ts';

const PICTURE = join('test', 'goldens', 'pipelines', 'sd15-outpaint-fill', 'image.png');

test('a picture is widened and painted in tiles, and values are compared in a grid that goes on after a reload', async ({
  page,
}) => {
  await page.goto('/?backend=wasm');
  await page.getByTestId('checkpoint-folder').setInputFiles(join(CHECKPOINTS, 'tiny-sd15'));
  await expect(page.getByText('tiny-sd15', { exact: true })).toBeVisible();
  await page.getByText('More settings').click();
  const field = (name: string) => page.getByRole('textbox', { name, exact: true });
  for (const [name, value] of Object.entries({ Prompt: 'a cat', Width: '64', Height: '48', Steps: '2' })) {
    await field(name).fill(value);
  }
  await expect(page.getByText('CLIP: 4 of 77 tokens')).toBeVisible();
  await field('Negative prompt').fill('dogs and birds');
  await expect(page.getByText('CLIP: 9 of 77 tokens')).toBeVisible();
  await field('Negative prompt').fill('');

  await page.locator('input[type=file][accept="image/*"]').setInputFiles(PICTURE);
  await page.getByText('Widen the picture').click();
  await field('Right').fill('30');
  await page.getByRole('button', { name: /^Generate/ }).click();
  await expect(page.getByText('Right must be a multiple of 8 from 0 to 2048 pixels.')).toBeVisible();
  await field('Right').fill('32');
  await expect(page.getByText('The picture at 64 × 48 becomes 96 × 48 pixels.')).toBeVisible();
  await field('Soft seam').fill('8');
  await page.getByRole('button', { name: /^Generate/ }).click();
  await expect(page.getByText('Size 96 × 48')).toBeVisible({ timeout: 60_000 });
  const [run] = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 1 })) ?? []);
  expect(run.operation?.operation).toBe('image_outpaint');
  expect(run.operation?.parameters).toMatchObject({ outpaint_right: 32, outpaint_feather: 8 });

  await page.getByRole('button', { name: 'Do not widen it' }).click();
  await page.getByText('Paint it large, in tiles').click();
  await page.getByRole('checkbox', { name: 'Enlarge the picture and paint it tile by tile' }).check();
  // The picture's own size counts, whatever is asked for.
  await field('Width').fill('128');
  await field('Enlarged').fill('1.5');
  await expect(page.getByText('The picture will have 96 × 72 pixels. It is painted in 4 tiles.')).toBeVisible();
  await field('Overlap').fill('40');
  await page.getByRole('button', { name: /^Generate/ }).click();
  await expect(page.getByText(/^Overlap is 40, more than half of the tiles of 64 pixels/)).toBeVisible();
  await field('Overlap').fill('16');
  await page.getByRole('button', { name: /^Generate/ }).click();
  await expect(page.getByText('Size 96 × 72')).toBeVisible({ timeout: 60_000 });
  const [tiled] = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 1 })) ?? []);
  expect(tiled.operation?.parameters).toMatchObject({ tiled_scale: 1.5, tiled_size: 64, tiled_overlap: 16 });
  expect(tiled.operation?.parameters).not.toHaveProperty('width');
  await page.getByRole('button', { name: 'Remove the starting picture' }).click();
  await field('Width').fill('64');

  await page.getByText('Compare values').click();
  await page.getByLabel('X axis', { exact: true }).selectOption('seed');
  await page.getByLabel('Values of the X axis').fill('1-3 (+2)');
  await page.getByLabel('Y axis', { exact: true }).selectOption('prompt');
  await page.getByLabel('Values of the Y axis').fill('cat, dog');
  await page.getByRole('button', { name: 'Make 4 pictures of a plot' }).click();
  await expect(page.getByText('4 of 4')).toBeVisible({ timeout: 60_000 });
  await expect(page.getByText('The grid is in the recordings')).toBeVisible();

  await page.reload();
  await page.getByRole('button', { name: 'Show: Seed: 3, dog' }).click();
  await expect(page.getByRole('figure').getByText('a dog', { exact: true })).toBeVisible();
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save as one picture' }).click();
  expect((await download).suggestedFilename()).toMatch(/^plot-[0-9a-f]{8}\.png$/);
});
