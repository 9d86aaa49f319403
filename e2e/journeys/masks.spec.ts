/** What is said of a mask in the form, to the picture; test/fidelity/pictures.ts holds the numbers. */
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { ARCHITECTURE_GOLDENS, ArchitectureFolders } from '../fixtures/architectures.ts';

const folders = new ArchitectureFolders();
test.afterAll(() => folders.remove());

const PICTURE = join(ARCHITECTURE_GOLDENS, 'sd1-inpaint-06', 'image.png');

test('only what is masked is painted, larger than it is, and put back into the picture', async ({ page }) => {
  await page.goto('/?backend=wasm');
  const generate = page.getByRole('button', { name: /^Generate/ });
  await expect(generate).toBeEnabled();
  await page.getByTestId('checkpoint-folder').setInputFiles(folders.write('sd1'));
  await expect(page.getByText('sd1', { exact: true })).toBeVisible();
  await page.getByText('More settings', { exact: true }).click();
  const field = (name: string) => page.getByRole('textbox', { name, exact: true });
  for (const [name, value] of Object.entries({ Prompt: 'a boat', Width: '64', Height: '64', Steps: '2' })) {
    await field(name).fill(value);
  }
  await page.getByText('Choose a picture …').locator('input').setInputFiles(PICTURE);
  await page.getByRole('button', { name: 'Paint a mask' }).click();
  const easel = page.getByRole('application');
  await easel.focus();
  await easel.press('Space');
  await page.getByRole('button', { name: 'Done' }).click();
  await page.getByText('How the mask is used').click();
  await page.getByRole('radio', { name: 'Only the masked part' }).check();
  await field('Pixels around it').fill('4');
  await field('Grow the mask').fill('200');
  await generate.click();
  await expect(page.getByText('Grow the mask must be a whole number from -128 to 128.')).toBeVisible();
  await field('Grow the mask').fill('1');
  await field('Soften its edge').fill('1.5');
  await page.getByRole('combobox', { name: 'Under the mask at first' }).selectOption({ label: 'Noise' });
  await page.getByRole('checkbox', { name: 'Soft inpainting' }).check();
  await field('Strength').fill('0.8');
  await page.getByText('Memory', { exact: true }).click();
  await page.getByRole('combobox', { name: 'Guidance is computed' }).selectOption('One after the other');
  await page.getByRole('combobox', { name: 'Tiles of the autoencoder' }).selectOption('128 × 128');
  await generate.click();
  const shown = page.getByRole('figure').getByRole('img').first();
  await expect(shown).toHaveAttribute('alt', 'a boat', { timeout: 120_000 });

  const made = await page.evaluate(async () => {
    const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
    return run && { parameters: run.operation?.parameters };
  });
  expect(made?.parameters).toMatchObject({
    mask_grow: 1,
    mask_feather: 1.5,
    mask_padding: 4,
    mask_content: 'latent_noise',
    soft_inpainting: true,
    guidance_mode: 'serial',
    tile_size: 128,
    width: 64,
    height: 64,
  });
  // The result is the picture of 40 × 32 pixels, though 64 × 64 were painted.
  expect(await shown.evaluate((image: HTMLImageElement) => [image.naturalWidth, image.naturalHeight])).toEqual([
    40, 32,
  ]);

  await page.getByRole('radio', { name: 'The whole picture' }).check();
  await field('Soften its edge').fill('0');
  await page.getByRole('button', { name: 'Use these settings' }).first().click();
  await expect(field('Soften its edge')).toHaveCount(0);
  await page.getByRole('button', { name: 'Paint a mask' }).click();
  await easel.focus();
  await easel.press('Space');
  await page.getByRole('button', { name: 'Done' }).click();
  await expect(field('Pixels around it')).toHaveValue('4');
  await expect(field('Soften its edge')).toHaveValue('1.5');
});
