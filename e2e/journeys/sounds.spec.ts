/** Sounds on the page: checkpoints of Stable Audio and ACE-Step are opened, their forms filled in, and the results played, saved and used as a start. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Locator, type Page } from '@playwright/test';
import { writeWeightless } from '../fixtures/weightless.ts';

const SOUND = join(import.meta.dirname, '..', '..', 'test', 'goldens', 'sounds', 'stable-audio-sound', 'audio.wav');

const folder = mkdtempSync(join(tmpdir(), 'darkroom-sounds-'));
test.afterAll(() => rmSync(folder, { recursive: true, force: true }));

const errors: string[] = [];
test.beforeEach(({ page }) => {
  errors.length = 0;
  page.on('pageerror', ({ message }) => errors.push(message));
});
test.afterEach(() => expect(errors).toEqual([]));

class SoundStudio {
  readonly generate: Locator;
  readonly prompt: Locator;
  readonly player: Locator;
  readonly chosen: Locator;

  constructor(readonly page: Page) {
    this.generate = page.getByRole('button', { name: /^Generate/ });
    this.prompt = page.getByRole('textbox', { name: 'Prompt', exact: true });
    this.player = page.getByRole('region', { name: 'Sound', exact: true }).getByRole('button', { name: 'Play' });
    this.chosen = page.getByLabel(/Choose (a sound|another) …/);
  }

  async open(checkpoint: string): Promise<void> {
    await this.page.goto('/?backend=wasm');
    await expect(this.page.getByText('leaves this device')).toBeVisible();
    await this.page.getByTestId('checkpoint-folder').setInputFiles(writeWeightless(folder, checkpoint));
    await expect(this.page.getByText(`Opened ${checkpoint}.`)).toBeAttached();
  }

  field(name: string): Locator {
    return this.page.getByRole('textbox', { name, exact: true });
  }

  async set(values: Record<string, string>): Promise<void> {
    for (const [name, value] of Object.entries(values)) {
      if (!(await this.field(name).isVisible())) {
        await this.page.getByText('More settings').click();
      }
      await this.field(name).fill(value);
    }
  }

  /** The newest run's operation and recorded sounds with their metadata. */
  async last() {
    return this.page.evaluate(async () => {
      const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
      const entities = run?.entities ?? [];
      return {
        operation: run?.operation as { config: string; parameters: Record<string, unknown> } | undefined,
        types: entities.map(({ type }) => type),
        sounds: entities.filter(({ type }) => type === 'output_audio').map(({ metadata }) => metadata ?? {}),
      };
    });
  }
}

test('words become a sound, which is played, recorded with its recipe, and made again', async ({ page }) => {
  const studio = new SoundStudio(page);
  await studio.open('tiny-stable-audio');
  // Opening it shows its form.
  await expect(page.getByRole('radio', { name: 'Sound', exact: true })).toBeChecked();
  await expect(page.getByRole('combobox', { name: 'What to make it with' })).toHaveValue('stable_audio');
  await expect(studio.field('Negative prompt')).toBeVisible();

  await studio.prompt.fill('rain on a roof');
  await studio.set({ Seconds: '0' });
  await studio.prompt.click();
  await expect(page.getByText('Seconds must be a number above 0.')).toBeVisible();
  await studio.set({ Seconds: '0.5', Steps: '3', 'Sounds at once': '2' });
  await studio.generate.click();
  await expect(studio.player).toBeEnabled({ timeout: 120_000 });
  await studio.player.click();
  const { operation, types, sounds } = await studio.last();
  expect(operation).toMatchObject({
    config: 'stable_audio',
    parameters: { prompt: 'rain on a roof', seconds: 0.5, steps: 3, batch_size: 2 },
  });
  expect(types.filter((type) => type === 'output_audio')).toHaveLength(2);
  expect(types).toContain('encoded_prompt');
  expect(sounds[0]).toMatchObject({ seconds: 0.5, rate: 8000, channels: 2, sampler: 'dpmpp_2m_sde' });
  await page.setViewportSize({ width: 390, height: 844 });
  await expect(studio.player.or(page.getByRole('button', { name: 'Pause' }))).toBeVisible();
  // The waveform is drawn anew for the new width.
  await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
});

test('a sound grows out of another one; what is none, or is too long, is said', async ({ page }) => {
  const studio = new SoundStudio(page);
  await studio.open('tiny-stable-audio');
  const text = join(folder, 'notes.wav');
  writeFileSync(text, 'This is a text.');
  await studio.chosen.setInputFiles(text);
  await expect(page.getByText(/^This sound cannot be read here: it is damaged/)).toBeVisible();

  await studio.chosen.setInputFiles(SOUND);
  await expect(page.getByText('audio.wav 0.2 s')).toBeVisible();
  await studio.prompt.fill('an oil painting');
  await studio.set({ Seconds: '5', Steps: '4', Strength: '0.5' });
  await studio.generate.click();
  await expect(
    page.getByText('"tiny-stable-audio" makes at most 1.15 seconds of sound, and this would end at second 5;').first(),
  ).toBeVisible({ timeout: 60_000 });

  await studio.set({ Seconds: '0.3' });
  await studio.generate.click();
  await expect(studio.player).toBeEnabled({ timeout: 120_000 });
  const { operation, types } = await studio.last();
  expect(operation?.parameters).toMatchObject({ seconds: 0.3, strength: 0.5 });
  expect(types).toContain('input_audio');

  await page.getByRole('button', { name: 'Remove audio.wav' }).click();
  await expect(page.getByText('audio.wav')).toHaveCount(0);
});

test('a part of a sound is made anew, and what does not go together is said', async ({ page }) => {
  const studio = new SoundStudio(page);
  await studio.open('tiny-stable-audio-3');
  await expect(page.getByRole('combobox', { name: 'What to make it with' })).toHaveValue('stable_audio_3');
  await studio.chosen.setInputFiles(SOUND);
  await expect(page.getByText('audio.wav 0.2 s')).toBeVisible();
  await studio.prompt.fill('rain on a roof');
  await studio.set({ 'Anew from second': '0.15', 'Anew until second': '0.1' });
  await studio.generate.click();
  await expect(page.getByText('repaint_start must lie before repaint_end.')).toBeVisible();
  for (const [width, height] of [
    [390, 844],
    [1440, 900],
  ]) {
    await page.setViewportSize({ width, height });
    await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
    await page.screenshot({ path: join(test.info().outputDir, `stable-audio-3-${width}.png`), fullPage: true });
  }
  // It goes on beyond the end of the given sound.
  await studio.set({ 'Anew until second': '', Seconds: '0.3', Steps: '3' });
  await studio.generate.click();
  await expect(studio.player).toBeEnabled({ timeout: 120_000 });
  const { operation, sounds } = await studio.last();
  expect(operation).toMatchObject({ config: 'stable_audio_3', parameters: { repaint_start: 0.15, seconds: 0.3 } });
  expect(operation?.parameters).not.toHaveProperty('repaint_end');
  expect(sounds[0]).toMatchObject({ seconds: 0.3, rate: 8000, channels: 2, sampler: 'lcm', schedule: 'log_snr' });
});

test('words and lyrics become a song; what of it cannot be is said', async ({ page }) => {
  const studio = new SoundStudio(page);
  await studio.open('tiny-ace-step');
  await expect(page.getByRole('combobox', { name: 'What to make it with' })).toHaveValue('ace_step');
  await studio.prompt.fill('oil painting, strings');
  await page.getByRole('button', { name: '[verse]' }).click();
  await page.keyboard.type('Soft notes in the morning light');
  await page.getByRole('button', { name: '[chorus]' }).click();
  await page.keyboard.type('Music fills the air');
  await expect(studio.field('Lyrics')).toHaveValue(
    '[verse]\nSoft notes in the morning light\n\n[chorus]\nMusic fills the air',
  );
  for (const [width, height] of [
    [390, 844],
    [1440, 900],
  ]) {
    await page.setViewportSize({ width, height });
    await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
    await page.screenshot({ path: join(test.info().outputDir, `music-${width}.png`), fullPage: true });
  }
  await studio.set({ Seconds: '0' });
  await studio.prompt.click();
  await expect(page.getByText('Seconds must be a number above 0.')).toBeVisible();
  await studio.set({ Seconds: '9', Steps: '3' });
  await studio.generate.click();
  await expect(
    page.getByText('"tiny-ace-step" makes at most 8 seconds of music, and this would be 9; choose fewer').first(),
  ).toBeVisible({ timeout: 60_000 });

  await studio.set({ Seconds: '0.8', 'Beats per minute': '120', Key: 'C major' });
  await studio.generate.click();
  await expect(studio.player).toBeEnabled({ timeout: 120_000 });
  const { operation, sounds } = await studio.last();
  expect(operation).toMatchObject({
    config: 'ace_step',
    parameters: {
      prompt: 'oil painting, strings',
      lyrics: '[verse]\nSoft notes in the morning light\n\n[chorus]\nMusic fills the air',
      seconds: 0.8,
      bpm: 120,
      keyscale: 'C major',
      steps: 3,
    },
  });
  expect(sounds[0]).toMatchObject({ seconds: 0.8, rate: 3200, channels: 2, guidance_mode: 'projected' });
});

test('a saved song that is dropped fills its own form again', async ({ page }) => {
  const studio = new SoundStudio(page);
  await studio.open('tiny-ace-step-turbo');
  await studio.prompt.fill('rain, piano');
  await studio.field('Lyrics').fill('[verse]\nSoft notes');
  await studio.set({ Seconds: '0.5', 'Beats per minute': '96', Steps: '2' });
  await studio.generate.click();
  await expect(studio.player).toBeEnabled({ timeout: 120_000 });
  const [saved] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('link', { name: /^Save as WAV/ }).click(),
  ]);
  const song = readFileSync(await saved.path()).toString('base64');
  await studio.prompt.fill('something else');
  await studio.set({ 'Beats per minute': '', Seconds: '3' });
  await page.getByRole('radio', { name: 'Picture', exact: true }).check();

  const dropped = await page.evaluateHandle((base64) => {
    const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], 'rain.wav', { type: 'audio/wav' }));
    return transfer;
  }, song);
  await page.locator('body').dispatchEvent('drop', { dataTransfer: dropped });
  await expect(page.getByText('rain.wav was made with Darkroom.')).toBeVisible();
  await page.getByRole('button', { name: 'Use its settings' }).click();
  await expect(page.getByText('Its settings are in the form now.', { exact: true }).first()).toBeVisible();
  await expect(page.getByRole('combobox', { name: 'What to make it with' })).toHaveValue('ace_step');
  await expect(studio.prompt).toHaveValue('rain, piano');
  await expect(studio.field('Lyrics')).toHaveValue('[verse]\nSoft notes');
  await expect(studio.field('Seconds')).toHaveValue('0.5');
  await expect(studio.field('Beats per minute')).toHaveValue('96');
});
