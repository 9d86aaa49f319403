/** What runs make besides pictures: recorded, listed, shown, played, saved, served, and restored with its settings. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, type Download, type Locator, type Page } from '@playwright/test';
import type { Door } from '../../src/jobs/door.ts';
import { medium as audio } from '../../src/media/audio.ts';
import { bells, PROMPT, recordMedia, SKETCHES, TEXT } from '../fixtures/media.ts';
import { openRecorders, recorderScript } from '../fixtures/recorder.ts';

class MediaPage {
  readonly details: Locator;
  readonly results: Locator;
  readonly alert: Locator;

  constructor(readonly page: Page) {
    this.details = page.getByRole('dialog');
    this.results = this.details.getByRole('radiogroup', { name: 'Results of this run' });
    this.alert = page.getByRole('alert');
  }

  async open(): Promise<void> {
    await this.page.goto('/?backend=wasm#recordings');
    await this.page
      .getByRole('button', { name: `Show: ${PROMPT}` })
      .first()
      .click();
    await expect(this.details).toBeVisible();
  }

  /** @param place from 1 */
  async choose(place: number): Promise<void> {
    await this.results
      .getByRole('radio')
      .nth(place - 1)
      .check({ force: true });
  }
}

async function bytesOf(download: Download): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await readFile(await download.path()));
}

/** Number of colours on a canvas; 0 if nothing was drawn. */
function colours(canvas: Locator): Promise<number> {
  return canvas.evaluate(async (element: HTMLCanvasElement) => {
    if (element.width === 0) {
      return 0;
    }
    const copy = new OffscreenCanvas(element.width, element.height);
    const context = copy.getContext('2d') as OffscreenCanvasRenderingContext2D;
    context.drawImage(await createImageBitmap(element), 0, 0);
    const { data } = context.getImageData(0, 0, copy.width, copy.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });
}

async function drop(page: Page, name: string, type: string, bytes: Uint8Array): Promise<void> {
  await page.evaluate(
    ({ name, type, base64 }) => {
      const content = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([content], name, { type }));
      document.body.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
    },
    { name, type, base64: Buffer.from(bytes).toString('base64') },
  );
}

test('sounds, texts and sketches are recorded under their own extensions, drawn small in the list, and saved with all files', async ({
  page,
  request,
}) => {
  await openRecorders(page, await recorderScript(request));
  const { run, files } = await recordMedia(page);
  expect(files).toEqual(['01_input.json', '02_output_audio.wav', '03_output_text.txt', '04_p5.js', '05_tonejs.js']);

  const media = new MediaPage(page);
  await page.goto('/?backend=wasm#recordings');
  const first = page.getByRole('button', { name: `Show: ${PROMPT}` });
  await expect(first.locator('.count')).toHaveText('4');
  await expect.poll(() => colours(first.locator('canvas'))).toBeGreaterThan(1);
  await expect(page.getByText('Not there any more')).toHaveCount(0);

  const types = await page.evaluate(async (id) => {
    const { recordings } = globalThis.darkroom as Door;
    const { entities } = await recordings.read(id);
    return Promise.all(entities.map(async ({ filename }) => (await recordings.file(id, filename)).type));
  }, run);
  expect(types).toEqual(['application/json', 'audio/wav', 'text/plain', 'text/javascript', 'text/javascript']);

  await media.open();
  for (const small of await media.results.locator('canvas').all()) {
    await expect.poll(() => colours(small)).toBeGreaterThan(1);
  }
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: 'Download 04_p5.js' }).click(),
  ]);
  expect(new TextDecoder().decode(await bytesOf(download))).toBe(`// @language p5\n${SKETCHES[0]?.source}`);
});

test('a sound shows its waveform, plays, loops, and is sought by keyboard and pointer', async ({ page, request }) => {
  await openRecorders(page, await recorderScript(request));
  await recordMedia(page);
  const media = new MediaPage(page);
  await media.open();
  const sound = media.details.getByRole('group', { name: PROMPT });
  const position = sound.getByRole('slider', { name: 'Position' });
  const player = sound.locator('audio');
  await expect(position).toBeEnabled();
  await expect(position).toHaveAttribute('aria-valuetext', '0.0 of 3.0 seconds');
  await expect(sound).toContainText('24 kHz, stereo');
  await expect.poll(() => colours(sound.locator('canvas'))).toBeGreaterThan(1);

  await position.focus();
  await page.keyboard.press('ArrowRight');
  await expect(position).toHaveAttribute('aria-valuetext', '1.0 of 3.0 seconds');
  expect(await player.evaluate((element: HTMLAudioElement) => element.currentTime)).toBeCloseTo(1, 2);
  await page.keyboard.press('End');
  await expect(position).toHaveAttribute('aria-valuetext', '3.0 of 3.0 seconds');
  await page.keyboard.press('Shift+ArrowLeft');
  await expect(position).toHaveAttribute('aria-valuetext', '0.0 of 3.0 seconds');
  // The arrow keys acted on the sound, not on the next run.
  await expect(sound).toBeVisible();
  const box = await position.boundingBox();
  await page.mouse.click((box?.x ?? 0) + (box?.width ?? 0) / 2, (box?.y ?? 0) + (box?.height ?? 0) / 2);
  await expect(position).toHaveAttribute('aria-valuetext', /^1\.[45] of 3\.0 seconds$/);

  await sound.getByRole('button', { name: 'Loop' }).click();
  await expect(sound.getByRole('button', { name: 'Loop' })).toHaveAttribute('aria-pressed', 'true');
  expect(await player.evaluate((element: HTMLAudioElement) => element.loop)).toBe(true);
  await sound.getByRole('slider', { name: 'Volume' }).fill('0.25');
  expect(await player.evaluate((element: HTMLAudioElement) => element.volume)).toBe(0.25);
  await sound.getByRole('button', { name: 'Mute' }).click();
  expect(await player.evaluate((element: HTMLAudioElement) => element.muted)).toBe(true);

  const before = await player.evaluate((element: HTMLAudioElement) => element.currentTime);
  await position.press(' ');
  await expect(sound.getByRole('button', { name: 'Pause' })).toBeVisible();
  await expect.poll(() => player.evaluate((element: HTMLAudioElement) => element.currentTime)).not.toBe(before);
  await sound.getByRole('button', { name: 'Pause' }).click();
  await expect(sound.getByRole('button', { name: 'Play' })).toBeVisible();
});

test('a part of a sound is chosen by keyboard and pointer, saved, and used as a start; its tones are shown', async ({
  page,
  request,
}, { outputDir }) => {
  await openRecorders(page, await recorderScript(request));
  const original = bells();
  await recordMedia(page, original);
  const media = new MediaPage(page);
  await page.setViewportSize({ width: 1440, height: 900 });
  await media.open();
  const sound = media.details.getByRole('group', { name: PROMPT });
  await sound.getByRole('button', { name: 'Spectrogram' }).click();
  await expect(sound.getByRole('img', { name: /^Spectrogram/ })).toBeVisible();
  await expect.poll(() => colours(sound.locator('canvas').nth(1))).toBeGreaterThan(50);

  await sound.getByRole('button', { name: 'Trim' }).click();
  const [start, end] = ['Start of the part', 'End of the part'].map((name) => sound.getByRole('slider', { name }));
  await start.focus();
  await page.keyboard.press('Shift+ArrowRight');
  await page.keyboard.press('ArrowRight');
  await expect(start).toHaveAttribute('aria-valuetext', '1.1 of 3.0 seconds');
  await expect(sound.getByRole('spinbutton', { name: 'From second' })).toHaveValue('1.1');
  await end.press('ArrowLeft');
  await expect(end).toHaveAttribute('aria-valuetext', '2.9 of 3.0 seconds');
  const box = await end.boundingBox();
  if (box) {
    const [x, y] = [box.x + 7 + ((box.width - 14) * 2.9) / 3, box.y + box.height / 2];
    await page.mouse.move(x, y);
    await page.mouse.down();
    await page.mouse.move(x - (box.width - 14) / 3, y, { steps: 4 });
    await page.mouse.up();
  }
  await expect(end).toHaveAttribute('aria-valuetext', /^1\.9 of 3\.0 seconds$/);
  await sound.getByRole('spinbutton', { name: 'to second' }).fill('1.6');
  await sound.getByRole('spinbutton', { name: 'to second' }).press('Tab');
  await expect(end).toHaveAttribute('aria-valuetext', '1.6 of 3.0 seconds');
  for (const [width, height] of [
    [1440, 900],
    [390, 844],
  ]) {
    await page.setViewportSize({ width, height });
    await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
    await page.screenshot({ path: join(outputDir, `trim-${width}.png`) });
  }

  const [download] = await Promise.all([
    page.waitForEvent('download'),
    sound.getByRole('button', { name: 'Save this part as WAV' }).click(),
  ]);
  expect(download.suggestedFilename()).toMatch(/-part\.wav$/);
  const { rate, channels } = original;
  const part = { rate, channels: channels.map((plane) => plane.slice(1.1 * rate, 1.6 * rate)) };
  expect(await audio.decode(new Blob([await bytesOf(download)]))).toEqual(part);

  await sound.getByRole('button', { name: 'Start from this part' }).click();
  await expect(media.details).toHaveCount(0);
  await expect(page.getByRole('radio', { name: 'Sound', exact: true })).toBeChecked();
  await expect(page.getByText(/-part\.wav 0\.5 s/)).toBeVisible();
});

test('a sound is saved as WAV, FLAC and what the browser encodes; each brings its settings back when it is dropped', async ({
  page,
  request,
}) => {
  await openRecorders(page, await recorderScript(request));
  const original = bells({ gain: 1.2 });
  await recordMedia(page, original);
  const media = new MediaPage(page);
  await media.open();
  const actions = media.details.getByRole('figure');
  const saved = new Map<string, { name: string; bytes: Uint8Array<ArrayBuffer> }>();
  const take = async (label: string, by: Locator) => {
    const [download] = await Promise.all([page.waitForEvent('download'), by.click()]);
    saved.set(label, { name: download.suggestedFilename(), bytes: await bytesOf(download) });
  };
  const wav = actions.getByRole('link', { name: 'Save as WAV' });
  await expect(wav).toHaveAttribute('href', /^blob:/);
  await take('WAV', wav);
  await take('WAV, 16-bit', actions.getByRole('button', { name: 'Save as WAV, 16-bit' }));
  await expect(media.alert).toContainText('% of the samples were louder than this format can hold');
  await take('FLAC', actions.getByRole('button', { name: 'Save as FLAC' }));
  // Every Chromium has this one.
  await take('Opus', actions.getByRole('button', { name: 'Save as Opus' }));
  const aac = actions.getByRole('button', { name: 'Save as AAC' });
  if ((await aac.count()) > 0) {
    await take('AAC', aac);
  }

  expect(await audio.decode(new Blob([saved.get('WAV')?.bytes as Uint8Array<ArrayBuffer>]))).toEqual(original);
  for (const [label, { name, bytes }] of saved) {
    const extension = audio.recognise(bytes)?.extension ?? 'm4a';
    expect(name).toBe(`darkroom-1234567890123456789-1.${extension}`);
    await page.goto('/?backend=wasm');
    await page.reload();
    await expect(page.getByRole('button', { name: 'Generate', exact: true })).toBeEnabled();
    await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill(`before ${label}`);
    await drop(page, name, '', bytes);
    await page.getByText(`${name} was made with Darkroom.`).getByRole('button', { name: 'Use its settings' }).click();
    await expect(page.getByRole('textbox', { name: 'Prompt', exact: true })).toHaveValue(PROMPT);
    await expect(page.getByText(/^Its settings are in the form now/).first()).toBeVisible();
  }

  // Switched off, no settings leave with the file.
  await media.open();
  await actions.getByRole('checkbox', { name: 'Write settings into saved sounds' }).uncheck();
  await take('bare', actions.getByRole('button', { name: 'Save as FLAC' }));
  expect(Buffer.from(saved.get('bare')?.bytes ?? []).includes('bell in the rain')).toBe(false);
  expect(Buffer.from(saved.get('FLAC')?.bytes ?? []).includes('bell in the rain')).toBe(true);

  // Decoded again, it is the same sound of the same length.
  const opus = saved.get('Opus')?.bytes ?? new Uint8Array();
  await page.reload();
  await page
    .getByTestId('keep-picture')
    .setInputFiles({ name: 'bells.ogg', mimeType: 'audio/ogg', buffer: Buffer.from(opus) });
  await page.getByRole('button', { name: /^Show: bells\.ogg/ }).click();
  await expect(media.details.getByRole('slider', { name: 'Position' })).toHaveAttribute(
    'aria-valuetext',
    '0.0 of 3.0 seconds',
  );
  await expect(media.details.getByText('48 kHz, stereo')).toBeVisible();
});

test('a text is shown with its lines, copied and saved; a sketch with numbered lines and its language', async ({
  page,
  request,
  context,
}) => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await openRecorders(page, await recorderScript(request));
  await recordMedia(page);
  const media = new MediaPage(page);
  await media.open();
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());

  await media.choose(2);
  const text = media.details.getByRole('region', { name: PROMPT });
  await expect(text).toHaveText(TEXT, { useInnerText: true });
  await media.details.getByRole('button', { name: 'Copy' }).click();
  await expect.poll(clipboard).toBe(TEXT);
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    media.details.getByRole('link', { name: 'Save as Text' }).click(),
  ]);
  expect(download.suggestedFilename()).toMatch(/^darkroom-.*\.txt$/);
  expect(new TextDecoder().decode(await bytesOf(download))).toBe(TEXT);
  // A text has no place for settings.
  await expect(media.details.getByRole('checkbox', { name: /Write settings/ })).toHaveCount(0);

  await media.choose(3);
  const code = media.details.getByRole('region', { name: PROMPT });
  await expect(media.details.getByText('p5.js', { exact: true })).toBeVisible();
  await expect(code.locator('.line')).toHaveCount(14);
  await media.details.getByRole('button', { name: 'Copy' }).click();
  await expect.poll(clipboard).toBe(SKETCHES[0]?.source);
  // Moving along the results by keyboard keeps the focus there.
  await expect(media.results.getByRole('radio').nth(2)).toBeChecked();
  await media.results.getByRole('radio').nth(2).focus();
  await page.keyboard.press('ArrowRight');
  await expect(media.details.getByText('Tone.js', { exact: true })).toBeVisible();
  await expect(media.results.getByRole('radio').nth(3)).toBeFocused();
});

test.describe('over HTTP', () => {
  test.use({ serviceWorkers: 'allow' });

  test('each medium is served as what it is, and a sound in ranges', async ({ page, request }) => {
    await openRecorders(page, await recorderScript(request));
    const { run, files } = await recordMedia(page);
    await page.goto('/?backend=wasm');
    await page.evaluate(() => navigator.serviceWorker.ready);
    await page.reload();
    const served = await page.evaluate(
      async ({ run, files }) => {
        const whole = await Promise.all(
          files.map(async (file) => {
            const response = await fetch(`/v1/media/${run}/${file}`);
            return [
              response.status,
              response.headers.get('Content-Type'),
              (await response.arrayBuffer()).byteLength > 0,
            ];
          }),
        );
        const part = await fetch(`/v1/media/${run}/${files[1]}`, { headers: { Range: 'bytes=8-11' } });
        const element = new Audio(`/v1/media/${run}/${files[1]}`);
        const seconds = await new Promise<number>((resolve, reject) => {
          element.addEventListener('loadedmetadata', () => resolve(element.duration));
          element.addEventListener('error', () => reject(new Error('The sound is not playable.')));
        });
        return { whole, part: [part.status, part.headers.get('Content-Type'), await part.text()], seconds };
      },
      { run, files },
    );
    expect(served.whole).toEqual([
      [200, 'application/json', true],
      [200, 'audio/wav', true],
      [200, 'text/plain; charset=utf-8', true],
      [200, 'text/javascript; charset=utf-8', true],
      [200, 'text/javascript; charset=utf-8', true],
    ]);
    expect(served.part).toEqual([206, 'audio/wav', 'WAVE']);
    expect(served.seconds).toBeCloseTo(3, 2);
  });
});
