/** HeartMuLa on the page: its folder is opened, lyrics and tags are filled in, and the song is played, also while it is written. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import type { Sound } from '../../src/core/media.ts';
import { readWav } from '../../src/media/audio/wav.ts';
import { writeWeightless } from '../fixtures/weightless.ts';

/** A piece of the sound as it was put on the timeline. */
interface Placed {
  at: number;
  now: number;
  rate: number;
  samples: number[];
}

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

test('a song is heard while it is written, without a gap, and its file plays on from there', async ({ page }, {
  outputDir,
}) => {
  await page.addInitScript(() => {
    const placed: Placed[] = [];
    Object.assign(globalThis, { placed });
    AudioContext.prototype.createBufferSource = function (this: AudioContext) {
      const node = new AudioBufferSourceNode(this);
      const start = node.start.bind(node);
      node.start = (at = 0) => {
        const samples = [...(node.buffer?.getChannelData(0) ?? [])];
        placed.push({ at, now: this.currentTime, rate: this.sampleRate, samples });
        start(at);
      };
      return node;
    };
  });
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.goto('/?backend=wasm');
  await page.getByTestId('checkpoint-folder').setInputFiles(writeWeightless(folder, 'tiny-heartmula'));
  await expect(page.getByText('Opened tiny-heartmula.')).toBeAttached();
  await page.getByRole('textbox', { name: 'Lyrics', exact: true }).fill('[verse]\nSoft notes');
  await page.getByRole('textbox', { name: 'Tags', exact: true }).fill('piano');
  // The codec's first part is 29.76 seconds.
  await page.getByRole('textbox', { name: 'Seconds at most', exact: true }).fill('34');
  await page.getByText('More settings').click();
  await page.getByRole('textbox', { name: 'Steps to the sound', exact: true }).fill('1');
  await page.getByRole('textbox', { name: 'Guidance', exact: true }).fill('1');
  await page.getByRole('button', { name: /^Generate/ }).click();

  const sofar = page.getByRole('group', { name: 'The sound so far' });
  await sofar.getByRole('button', { name: 'Play' }).click({ timeout: 300_000 });
  await expect(sofar.getByRole('button', { name: 'Pause' })).toBeVisible();
  await page.screenshot({ path: join(outputDir, 'sofar-1440.png'), fullPage: true });
  await page.setViewportSize({ width: 390, height: 844 });
  await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
  await page.screenshot({ path: join(outputDir, 'sofar-390.png'), fullPage: true });
  await page.setViewportSize({ width: 1440, height: 900 });

  const finished = page.getByRole('region', { name: 'Sound', exact: true }).getByRole('figure');
  await expect(finished.getByRole('button', { name: 'Pause' })).toBeVisible({ timeout: 120_000 });
  const position = finished.getByRole('slider', { name: 'Position' });
  const seconds = async () => Number(await position.inputValue());
  const reached = await seconds();
  await expect.poll(seconds).toBeGreaterThan(reached);
  await finished.getByRole('button', { name: 'Pause' }).click();
  const player = finished.locator('audio');
  await expect.poll(() => player.evaluate((one: HTMLAudioElement) => one.currentTime)).toBeGreaterThan(reached);

  const wav = await page.evaluate(async () => {
    const job = (await globalThis.darkroom?.list())?.at(-1);
    const file = job?.entities.find(({ type }) => type === 'output_audio');
    const blob = file && (await globalThis.darkroom?.entity(file.run, file.filename));
    const bytes = new Uint8Array((await blob?.arrayBuffer()) ?? new ArrayBuffer(0));
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
  });
  const whole = readWav(new Uint8Array(Buffer.from(wav, 'base64'))) as Sound;
  const placed = await page.evaluate(() => (globalThis as unknown as { placed: Placed[] }).placed);
  expect(placed.length).toBeGreaterThan(1);
  expect(placed.every(({ rate }) => rate === whole.rate)).toBe(true);
  // What was heard is the file's beginning, and piece follows piece to the sample.
  const heard = placed.flatMap(({ samples }) => samples);
  expect(heard).toEqual(Array.from(whole.channels[0].subarray(0, heard.length)));
  placed.slice(1).forEach(({ at, now }, n) => {
    const end = placed[n].at + placed[n].samples.length / placed[n].rate;
    if (end >= now) {
      expect(at).toBeCloseTo(end, 6);
    } else {
      // The machine wrote more slowly than it played.
      expect(at).toBeGreaterThan(now);
    }
  });
});
