/** Another VAE from the disk to the picture, as a person uses it; test/fidelity/pictures.ts and e2e/fidelity.spec.ts hold the numbers. */
import { expect, test } from '@playwright/test';
import { architectureFile } from '../../test/architecture_checkpoints.ts';
import { ArchitectureFolders } from '../fixtures/architectures.ts';

const folders = new ArchitectureFolders();
test.afterAll(() => folders.remove());

test.use({ viewport: { width: 1440, height: 900 } });

test('a VAE is added, used, recorded and brought back', async ({ page }, info) => {
  await page.goto('/?backend=wasm');
  const generate = page.getByRole('button', { name: /^Generate/ });
  await expect(generate).toBeEnabled();
  await page.getByTestId('checkpoint-folder').setInputFiles(folders.write('sd1'));
  await expect(page.getByText('sd1', { exact: true })).toBeVisible();
  await page.locator('summary', { hasText: 'VAE' }).click();
  const vae = page.getByRole('combobox', { name: 'Autoencoder (VAE)' });
  await expect(vae.locator('option:checked')).toHaveText("The checkpoint's own");
  await page.getByTestId('vae-file').setInputFiles({
    name: 'vae-tiny.safetensors',
    mimeType: 'application/octet-stream',
    buffer: Buffer.from(architectureFile('vae-tiny.safetensors')),
  });
  await expect(vae.locator('option:checked')).toHaveText('vae-tiny');
  await page.getByText('More settings', { exact: true }).click();
  await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('a boat');
  for (const [field, value] of Object.entries({ Width: '32', Height: '32', Steps: '2' })) {
    await page.getByRole('textbox', { name: field, exact: true }).fill(value);
  }
  for (const [width, height] of [
    [390, 844],
    [1440, 900],
  ]) {
    await page.setViewportSize({ width, height });
    // The page is laid out anew, and a field of the old layout cannot be scrolled to.
    await expect(page.locator('.page.wide')).toHaveCount(width < 900 ? 0 : 1);
    await page.getByRole('combobox', { name: 'Decode with' }).scrollIntoViewIfNeeded();
    await page.screenshot({ path: info.outputPath(`field-${width}.png`) });
  }
  await generate.click();
  const shown = page.getByRole('figure').getByRole('img').first();
  await expect(shown).toHaveAttribute('alt', 'a boat', { timeout: 120_000 });
  const made = await page.evaluate(async () => {
    const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
    return run?.entities.find(({ type }) => type === 'output_image')?.metadata;
  });
  expect(made).toMatchObject({ vae: { vae: 'vae:import:vae-tiny', name: 'vae-tiny' } });

  await vae.selectOption({ label: "The checkpoint's own" });
  await page.getByRole('button', { name: 'Use these settings' }).first().click();
  await expect(vae.locator('option:checked')).toHaveText('vae-tiny');

  // The same one shows the picture first, and the checkpoint's own makes the one that is kept.
  const use = page.getByRole('combobox', { name: 'Decode with' });
  await use.selectOption({ label: "This one first, then the checkpoint's own" });
  await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('a lake');
  await generate.click();
  await expect(shown).toHaveAttribute('alt', 'a lake', { timeout: 120_000 });
  const refined = await page.evaluate(async () => {
    const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
    return run?.entities.find(({ type }) => type === 'output_image')?.metadata;
  });
  expect(refined).toMatchObject({ first_vae: { vae: 'vae:import:vae-tiny', name: 'vae-tiny' } });
  expect(refined).not.toHaveProperty('vae');
  await use.selectOption({ label: 'This one alone' });
  await page.getByRole('button', { name: 'Use these settings' }).first().click();
  await expect(use.locator('option:checked')).toHaveText("This one first, then the checkpoint's own");
});
