/** Image prompts from the disk to the picture, as a person uses them; test/fidelity/pictures.ts and e2e/fidelity.spec.ts hold the numbers. */
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { architectureFile } from '../../test/architecture_checkpoints.ts';
import { ARCHITECTURE_GOLDENS, ArchitectureFolders } from '../fixtures/architectures.ts';

const folders = new ArchitectureFolders();
test.afterAll(() => folders.remove());

const picture = (name: string) =>
  join(ARCHITECTURE_GOLDENS, 'image-prompt-sd1-plus-unguided', `image-prompt-${name}.png`);
const file = (name: string) => ({
  name: `${name}.safetensors`,
  mimeType: 'application/octet-stream',
  buffer: Buffer.from(architectureFile(`${name}.safetensors`)),
});

test.use({ viewport: { width: 1440, height: 900 } });

test('an image prompt is added, given its pictures, used, recorded and brought back', async ({ page }, info) => {
  const troubles: string[] = [];
  page.on('pageerror', (error) => troubles.push(error.message));
  await page.goto('/?backend=wasm');
  const generate = page.getByRole('button', { name: /^Generate/ });
  await expect(generate).toBeEnabled();
  await page.getByTestId('checkpoint-folder').setInputFiles(folders.write('sd1'));
  await expect(page.getByText('sd1', { exact: true })).toBeVisible();
  await page.locator('summary', { hasText: 'Image prompt' }).click();
  await expect(page.getByText('None is stored here yet.')).toBeVisible();

  await page.getByTestId('ip-adapter-file').setInputFiles(file('ip-adapter-plus-sd1'));
  const first = page.getByRole('group', { name: 'Image prompt 1' });
  const adapter = first.getByRole('combobox', { name: 'IP-Adapter' });
  await expect(adapter.locator('option:checked')).toHaveText('ip-adapter-plus-sd1');
  await page.getByText('More settings', { exact: true }).click();
  await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('a boat');
  for (const [field, value] of Object.entries({ Width: '32', Height: '32', Steps: '2' })) {
    await page.getByRole('textbox', { name: field, exact: true }).fill(value);
  }
  await generate.click();
  await expect(first.getByText('This image prompt needs a picture; choose one, or remove it.')).toBeVisible();
  await first
    .getByText('Choose pictures …')
    .locator('input')
    .setInputFiles([picture('1'), picture('2')]);
  await expect(first.getByRole('img')).toHaveCount(2);

  // Without what sees them.
  await generate.click();
  await expect(
    first.getByText(/^IP-Adapters see pictures by a CLIP vision encoder, and none is stored here;/),
  ).toBeVisible();
  await page.getByTestId('ip-adapter-file').setInputFiles(file('vision-h'));
  await expect(page.getByText(/^IP-Adapters see pictures by a CLIP vision encoder/)).toHaveCount(0);
  const weight = first.getByRole('textbox', { name: 'Weight' });
  await weight.fill('9');
  await generate.click();
  await expect(first.getByText('Weight must be a number from 0 to 4.')).toBeVisible();
  await weight.fill('0.7');
  for (const [width, height] of [
    [390, 844],
    [1440, 900],
  ]) {
    await page.setViewportSize({ width, height });
    await expect(weight).toBeVisible();
    await page.screenshot({ path: info.outputPath(`field-${width}.png`), fullPage: true });
  }
  await generate.click();
  const shown = page.getByRole('figure').getByRole('img').first();
  await expect(shown).toHaveAttribute('alt', 'a boat', { timeout: 120_000 });

  const made = await page.evaluate(async () => {
    const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
    const { entities = [] } = run ?? {};
    return entities.map(({ type, filename, metadata }) => ({ type, filename, metadata }));
  });
  expect(made.find(({ type }) => type === 'output_image')?.metadata).toMatchObject({
    ip_adapters: [
      {
        ip_adapter: 'ip_adapter:import:ip-adapter-plus-sd1',
        name: 'ip-adapter-plus-sd1',
        weight: 0.7,
        images: 2,
        image_encoder: { image_encoder: 'image_encoder:import:vision-h', name: 'vision-h' },
      },
    ],
  });
  expect(made.filter(({ type }) => type === 'input_ip_adapter_images')).toHaveLength(2);

  // Brought back from the recording.
  await first.getByRole('button', { name: 'Remove this image prompt' }).click();
  await expect(first).toHaveCount(0);
  await page.getByRole('button', { name: 'Use these settings' }).first().click();
  await expect(weight).toHaveValue('0.7');
  await expect(first.getByRole('img')).toHaveCount(2);
  await expect(adapter.locator('option:checked')).toHaveText('ip-adapter-plus-sd1');
  expect(troubles).toEqual([]);
});
