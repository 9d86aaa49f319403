/** ControlNets from the disk to the picture, as a person uses them; test/fidelity/pictures.ts and e2e/fidelity.spec.ts hold the numbers. */
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { architectureFile } from '../../test/architecture_checkpoints.ts';
import { ARCHITECTURE_GOLDENS, ArchitectureFolders } from '../fixtures/architectures.ts';

const folders = new ArchitectureFolders();
test.afterAll(() => folders.remove());

const PICTURE = join(ARCHITECTURE_GOLDENS, 'control-sd1-text', 'control-1.png');
const file = (name: string) => ({
  name: `${name}.safetensors`,
  mimeType: 'application/octet-stream',
  buffer: Buffer.from(architectureFile(`${name}.safetensors`)),
});

test.use({ viewport: { width: 1440, height: 900 } });

test('a ControlNet is added, given its picture, used, recorded and brought back', async ({ page }, info) => {
  const troubles: string[] = [];
  page.on('pageerror', (error) => troubles.push(error.message));
  await page.goto('/?backend=wasm');
  const generate = page.getByRole('button', { name: /^Generate/ });
  await expect(generate).toBeEnabled();
  await page.getByTestId('checkpoint-folder').setInputFiles(folders.write('sd1'));
  await expect(page.getByText('sd1', { exact: true })).toBeVisible();
  await page.locator('summary', { hasText: 'ControlNet' }).click();
  await expect(page.getByText('None is stored here yet.')).toBeVisible();

  // One for another kind of model is listed but cannot be chosen.
  await page.getByTestId('controlnet-file').setInputFiles(file('control-xl'));
  const first = page.getByRole('group', { name: 'ControlNet 1' });
  const net = first.getByRole('combobox', { name: 'ControlNet' });
  await expect(net.getByRole('option', { name: 'control-xl (does not fit)' })).toBeDisabled();
  await page.getByText('More settings', { exact: true }).click();
  await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('a boat');
  for (const [field, value] of Object.entries({ Width: '32', Height: '32', Steps: '2' })) {
    await page.getByRole('textbox', { name: field, exact: true }).fill(value);
  }
  await generate.click();
  await expect(
    first.getByText(/^The ControlNet "control-xl" was made for another kind of model: its cross_attention_dim is 80,/),
  ).toBeVisible();

  await page.getByTestId('controlnet-file').setInputFiles(file('control-sd1'));
  await expect(page.getByText('2 in use')).toBeVisible();
  await first.getByRole('button', { name: 'Remove this ControlNet' }).click();
  await expect(page.getByText('1 in use')).toBeVisible();
  await expect(net.locator('option:checked')).toHaveText('control-sd1');

  await generate.click();
  await expect(first.getByText('This ControlNet needs a control picture; choose one, or remove it.')).toBeVisible();
  await first.getByText('Choose a control picture …').locator('input').setInputFiles(PICTURE);
  await expect(first.getByRole('img')).toHaveAttribute('alt', 'The control picture, control-1.png');
  await first.getByRole('combobox', { name: 'What it sees' }).selectOption({ label: 'Edges in it (Canny)' });
  const weight = first.getByRole('textbox', { name: 'Weight' });
  await weight.fill('9');
  await generate.click();
  await expect(first.getByText('Weight must be a number from 0 to 4.')).toBeVisible();
  await weight.fill('0.7');
  await first.getByRole('textbox', { name: 'Ends at' }).fill('0.5');
  for (const [width, height] of [
    [390, 844],
    [1440, 900],
  ]) {
    await page.setViewportSize({ width, height });
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
    controlnets: [
      {
        controlnet: 'controlnet:import:control-sd1',
        name: 'control-sd1',
        weight: 0.7,
        start: 0,
        end: 0.5,
        detector: 'canny',
      },
    ],
  });
  expect(made.filter(({ type }) => type === 'input_control_images')).toHaveLength(1);

  // Restored from the recording.
  await first.getByRole('button', { name: 'Remove this ControlNet' }).click();
  await expect(first).toHaveCount(0);
  await page.getByRole('button', { name: 'Use these settings' }).first().click();
  await expect(weight).toHaveValue('0.7');
  await expect(first.getByRole('textbox', { name: 'Ends at' })).toHaveValue('0.5');
  await expect(first.getByRole('img')).toBeVisible();
  await expect(net.locator('option:checked')).toHaveText('control-sd1');
  expect(troubles).toEqual([]);
});
