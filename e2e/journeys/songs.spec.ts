/** HeartMuLa on the page: its folder is opened, lyrics and tags are filled in, and the song is played. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { writeWeightless } from '../fixtures/weightless.ts';

const folder = mkdtempSync(join(tmpdir(), 'darkroom-songs-'));
test.afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('a song from lyrics with sections and tags', async ({ page }) => {
  await page.goto('/?backend=wasm');
  await expect(page.getByText('leaves this device')).toBeVisible();
  await page.getByTestId('checkpoint-folder').setInputFiles(writeWeightless(folder, 'tiny-heartmula'));
  await expect(page.getByText('Opened tiny-heartmula.')).toBeAttached();
  await expect(page.getByRole('combobox', { name: 'What to make it with' })).toHaveValue('heartmula');
  await page.getByRole('textbox', { name: 'Lyrics', exact: true }).fill('[verse]\nSoft notes in the morning light');
  await page.getByRole('textbox', { name: 'Tags', exact: true }).fill('piano, happy');
  await page.getByRole('textbox', { name: 'Seconds at most', exact: true }).fill('0.4');
  for (const [width, height] of [
    [390, 844],
    [1440, 900],
  ]) {
    await page.setViewportSize({ width, height });
    await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
    await page.screenshot({ path: join(test.info().outputDir, `song-${width}.png`), fullPage: true });
  }
  await page.getByText('More settings').click();
  await page.getByRole('textbox', { name: 'Steps to the sound', exact: true }).fill('1');
  await page.getByRole('button', { name: /^Generate/ }).click();
  await expect(
    page.getByRole('region', { name: 'Sound', exact: true }).getByRole('button', { name: 'Play' }),
  ).toBeVisible({
    timeout: 300_000,
  });
  const run = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 1 }))?.[0]);
  expect(run?.operation).toMatchObject({
    config: 'heartmula',
    parameters: { TEXT_1: '[verse]\nSoft notes in the morning light', TEXT_2: 'piano, happy', seconds: 0.4, steps: 1 },
  });
  const made = run?.entities.find(({ type }) => type === 'output_audio');
  // Six frames of 256 samples.
  expect(made?.metadata).toMatchObject({ channels: 2, rate: 3200, seconds: 0.48 });
});
