/** Videos made in the tab: from the prompt to a file that plays, steps, says how it was made and starts the next one. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { chromium, expect, test, type Locator, type Page } from '@playwright/test';
import type { Door } from '../../src/jobs/door.ts';
import { readStoredFiles } from '../../src/formats/media/zip.ts';
import { medium } from '../../src/media/video.ts';
import { openDoor, openFolder } from '../fixtures/door.ts';
import { writeWeightless } from '../fixtures/weightless.ts';

const run = promisify(execFile);

let root: string;
let folder: string;
test.beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'darkroom-videos-'));
  folder = writeWeightless(root, 'tiny-animatediff');
});
test.afterAll(() => rmSync(root, { recursive: true, force: true }));

/** What ffprobe reports about a file; null without ffmpeg. */
async function probed(path: string): Promise<Record<string, string> | null> {
  const asked = ['-v', 'error', '-count_frames', '-select_streams', 'v', '-show_entries'];
  const entries = 'stream=codec_name,width,height,avg_frame_rate,nb_read_frames:format=duration:format_tags';
  try {
    const { stdout } = await run('ffprobe', [...asked, entries, '-of', 'json', path]);
    const { streams, format } = JSON.parse(stdout) as {
      streams: Record<string, string>[];
      format: { duration: string; tags?: Record<string, string> };
    };
    return { ...streams[0], duration: format.duration, ...format.tags };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return null;
    }
    throw error;
  }
}

class VideoPage {
  readonly video: Locator;
  readonly frames: Locator;

  constructor(readonly page: Page) {
    this.video = page.getByRole('figure').locator('video').first();
    this.frames = page.getByRole('group', { name: 'Frames' }).first();
  }

  field(name: string): Locator {
    return this.page.getByRole('textbox', { name, exact: true });
  }

  async set(values: Record<string, string>): Promise<void> {
    for (const [name, value] of Object.entries(values)) {
      await this.field(name).fill(value);
    }
  }
}

/** How many frames the browser decodes of a moving picture, and the milliseconds that they take. */
function decoded(
  page: Page,
  bytes: Uint8Array,
  type: string,
): Promise<{ frames: number; time: number; sides: number[] }> {
  return page.evaluate(
    async ([base64, mime]) => {
      const data = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const decoder = new ImageDecoder({ data, type: mime });
      await Promise.all([decoder.completed, decoder.tracks.ready]);
      const frames = decoder.tracks.selectedTrack?.frameCount ?? 0;
      let [time, sides] = [0, [0, 0]];
      for (let frameIndex = 0; frameIndex < frames; frameIndex++) {
        const { image } = await decoder.decode({ frameIndex });
        time += (image.duration ?? 0) / 1000;
        sides = [image.displayWidth, image.displayHeight];
        image.close();
      }
      return { frames, time, sides };
    },
    [Buffer.from(bytes).toString('base64'), type] as const,
  );
}

test('a video is made from words, played, stepped through, saved with its recipe, and begun from one of its frames', async ({
  page,
}, { outputDir }) => {
  const view = new VideoPage(page);
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.goto('/?backend=wasm');
  await page.getByTestId('checkpoint-folder').setInputFiles(folder);
  await expect(page.getByRole('radio', { name: 'Video', exact: true })).toBeChecked();
  await view.set({ Prompt: 'a red house at the edge of the forest', Frames: '6', 'Frames per second': '4' });
  await page.getByText('More settings').click();
  await view.set({ Steps: '2', Guidance: '2', Width: '50', Height: '64' });
  await view.field('Prompt').click();
  await expect(
    page.getByText('Width must be a multiple of 8 from 16 to 2048 pixels; the nearest is 48.'),
  ).toBeVisible();
  await view.set({ Width: '64' });
  await page.getByRole('button', { name: /^Generate/ }).click();

  await expect(view.video).toBeVisible({ timeout: 120_000 });
  await expect.poll(() => view.video.evaluate((one: HTMLVideoElement) => one.duration)).toBeCloseTo(1.5, 1);
  expect(await view.video.evaluate((one: HTMLVideoElement) => [one.videoWidth, one.videoHeight])).toEqual([64, 64]);
  await page.screenshot({ path: join(outputDir, 'video-1440.png'), fullPage: true });

  const [saved] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('link', { name: /^Save as/ }).click(),
  ]);
  const path = join(root, saved.suggestedFilename());
  await saved.saveAs(path);
  const bytes = new Uint8Array(await readFile(path));
  const kind = medium.recognise(bytes);
  expect(path.endsWith(`.${kind?.extension}`)).toBe(true);
  const texts = (await medium.readMetadata?.(bytes))?.texts;
  expect(JSON.parse(texts?.get('darkroom') ?? '{}')).toMatchObject({
    operation: { config: 'animatediff', parameters: { frames: 6, rate: 4, steps: 2 } },
  });
  const about = await probed(path);
  if (about) {
    expect(about).toMatchObject({ width: 64, height: 64, nb_read_frames: '6', avg_frame_rate: '4/1' });
    expect(Number(about.duration)).toBeCloseTo(1.5, 1);
  }

  for (const [label, extension] of [
    ['GIF', 'gif'],
    ['Animated WebP', 'webp'],
  ]) {
    const [moving] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: `Save as ${label}` }).click(),
    ]);
    expect(moving.suggestedFilename()).toMatch(new RegExp(`\\.${extension}$`));
    const content = new Uint8Array(await readFile(await moving.path()));
    expect(await decoded(page, content, `image/${extension}`)).toEqual({ frames: 6, time: 1500, sides: [64, 64] });
    const recipe = extension === 'webp' ? 'a red house' : 'GIF89a';
    expect(Buffer.from(content).includes(recipe)).toBe(true);
  }

  const small = page.getByRole('region', { name: 'Made so far' }).getByRole('button').first();
  await small.hover();
  await expect
    .poll(() => small.locator('video').evaluate((one: HTMLVideoElement) => one.currentTime))
    .toBeGreaterThan(0);
  await view.field('Prompt').hover();
  await expect(small.locator('video')).toHaveCount(0);

  await expect(view.frames).toContainText('Frame 1 of 6');
  await view.frames.getByRole('button', { name: 'Next frame' }).click();
  await expect(view.frames).toContainText('Frame 2 of 6');
  await view.frames.getByRole('button', { name: 'Previous frame' }).click();
  await view.frames.getByRole('button', { name: 'Previous frame' }).click();
  await expect(view.frames).toContainText('Frame 6 of 6');
  const [frame] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: 'Save this frame' }).click(),
  ]);
  expect(frame.suggestedFilename()).toMatch(/_6\.png$/);
  expect([...(await readFile(await frame.path())).subarray(1, 4)]).toEqual([0x50, 0x4e, 0x47]);

  await page.getByRole('button', { name: 'Start from the last frame' }).click();
  await page.getByRole('button', { name: /^Generate/ }).click();
  const ended = () =>
    page.evaluate(async () => {
      const job = (await (globalThis.darkroom as Door).list()).at(-1);
      return [job?.state, ...(job?.entities ?? []).map(({ type }) => type)];
    });
  await expect
    .poll(ended, { timeout: 120_000 })
    .toEqual(['completed', 'input_image', 'input', 'config', 'encoded_prompt', 'output_video']);

  await page.setViewportSize({ width: 390, height: 844 });
  await expect(view.frames).toBeVisible();
  await page.screenshot({ path: join(outputDir, 'video-390.png'), fullPage: true });
  await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
});

test('Wan makes one, of as many frames as it can, and who has no checkpoint of it is told where to get one', async ({
  page,
}, { outputDir }) => {
  const view = new VideoPage(page);
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.goto('/?backend=wasm');
  await expect(page.getByRole('button', { name: 'Generate', exact: true })).toBeEnabled();
  await page.getByRole('radio', { name: 'Video', exact: true }).click();
  await page.getByRole('combobox', { name: 'What to make it with' }).selectOption({ label: 'Wan' });
  await expect(
    page.getByText('Choose a checkpoint of Wan first: open its folder, or get one, under Library.').first(),
  ).toBeVisible();
  await page.screenshot({ path: join(outputDir, 'wan-missing-1440.png'), fullPage: true });
  await page.getByTestId('checkpoint-folder').setInputFiles(writeWeightless(root, 'tiny-wan'));
  await view.set({ Prompt: 'a red house at the edge of the forest', Frames: '6' });
  await view.field('Prompt').click();
  await expect(
    page.getByText('Frames must be 1 more than a multiple of 4, from 1 to 1021; the nearest is 5.'),
  ).toBeVisible();
  await view.set({ Frames: '9' });
  await page.getByText('More settings').click();
  await view.set({ Steps: '2', Guidance: '2', Width: '64', Height: '48' });
  await page.getByRole('button', { name: /^Generate/ }).click();

  await expect(view.video).toBeVisible({ timeout: 120_000 });
  await expect.poll(() => view.video.evaluate((one: HTMLVideoElement) => one.duration)).toBeCloseTo(9 / 16, 1);
  expect(await view.video.evaluate((one: HTMLVideoElement) => [one.videoWidth, one.videoHeight])).toEqual([64, 48]);
  await expect(view.frames).toContainText('Frame 1 of 9');
  await page.screenshot({ path: join(outputDir, 'wan-1440.png'), fullPage: true });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: join(outputDir, 'wan-390.png'), fullPage: true });
  await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
});

test('what takes hours here is said before it runs, with what takes less and who else makes it', async ({ page }, {
  outputDir,
}) => {
  const view = new VideoPage(page);
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.goto('/?backend=wasm');
  await page.getByTestId('checkpoint-folder').setInputFiles(writeWeightless(root, 'tiny-wan21-i2v'));
  await expect(page.getByRole('radio', { name: 'Video', exact: true })).toBeChecked();
  await page.getByText('More settings').click();
  // With the usual values the tiny network is done in minutes on a fast machine.
  await view.set({ Frames: '241', Steps: '150' });
  const outlook = page.getByRole('status').filter({ hasText: /This takes about (\d+ h )?\d+ min/ });
  await expect(outlook).toBeVisible({ timeout: 60_000 });
  await expect(page.getByText('Picture', { exact: true }).first()).toBeVisible();
  // It sees the first picture alone.
  await expect(page.getByText('Last picture', { exact: true })).toHaveCount(0);
  await page.screenshot({ path: join(outputDir, 'outlook-1440.png'), fullPage: true });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: join(outputDir, 'outlook-390.png'), fullPage: true });
  await expect(outlook.getByRole('button', { name: 'Enter a server' })).toBeVisible();
  await outlook.getByRole('button', { name: /^\d+ × \d+: about/ }).click();
  await expect(view.field('Width')).not.toHaveValue('832');
  await outlook.getByRole('button', { name: /^\d+ frames?: about/ }).click();
  await expect(view.field('Frames')).not.toHaveValue('241');
  await view.set({ Frames: '5', Width: '64', Height: '64', Steps: '1' });
  await expect(outlook).toHaveCount(0, { timeout: 60_000 });
});

test('where the disk is too full for a video its beginning is kept, and plays', async ({ page, context }) => {
  await openDoor(page, 'wasm');
  const ref = await openFolder(page, folder);
  const devtools = await context.newCDPSession(page);
  const origin = new URL(page.url()).origin;
  const whole = await runOnce(0);
  expect(whole.state).toBe('completed');
  const { usage } = await devtools.send('Storage.getUsageAndQuota', { origin });
  const quotaSize = Math.ceil(usage) + Math.floor(0.7 * whole.bytes);
  await devtools.send('Storage.overrideQuotaForOrigin', { origin, quotaSize });
  const part = await runOnce(1);
  await devtools.send('Storage.overrideQuotaForOrigin', { origin });
  expect(part.state).toBe('failed');
  expect(part.code).toBe('storage_full');
  expect(part.isPart).toBe(true);
  expect(part.notices.join(' ')).toContain('as much of its beginning as fitted is kept');
  expect(part.frames).toBeGreaterThan(0);
  expect(part.frames).toBeLessThan(16);
  expect(part.written).toBe(part.frames);

  /** Frames as the recording says, and as the file that was kept has them. */
  function runOnce(seed: number) {
    return page.evaluate(
      async ([checkpoint, seed]) => {
        const door = globalThis.darkroom as Door;
        const parameters = {
          prompt: 'a fox',
          seed,
          frames: 16,
          width: 256,
          height: 256,
          steps: 1,
          guidance_scale: 1,
          format: 'zip',
        };
        const { id } = await door.submit({
          operation: 'video_generation',
          config: 'animatediff',
          checkpoint,
          parameters,
        });
        const job = await door.wait(id);
        const { entities } = await door.recordings.read(job.run ?? '');
        const video = entities.find(({ type }) => type === 'output_video');
        const file = video && (await door.entity(job.run ?? '', video.filename));
        const text = file ? new TextDecoder('latin1').decode(await file.arrayBuffer()) : '';
        return {
          state: job.state,
          code: job.error?.code,
          notices: job.notices,
          isPart: video?.metadata.is_part === true,
          frames: Number(video?.metadata.frames ?? 0),
          written: new Set(text.match(/frame_\d+\.png/g)).size,
          bytes: file?.size ?? 0,
        };
      },
      [ref, String(seed)] as const,
    );
  }
});

test('a video that is cancelled half way keeps its frames so far, which is shown and told', async ({ page }, {
  outputDir,
}) => {
  const view = new VideoPage(page);
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.goto('/?backend=wasm');
  await page.getByTestId('checkpoint-folder').setInputFiles(folder);
  await expect(page.getByRole('radio', { name: 'Video', exact: true })).toBeChecked();
  await view.set({ Prompt: 'a fox', Frames: '24' });
  await page.getByText('More settings').click();
  await view.set({ Steps: '1', Guidance: '1', Width: '256', Height: '256' });
  await page.getByRole('button', { name: /^Generate/ }).click();
  await expect(page.getByRole('button', { name: 'Cancel' })).toBeVisible();
  const { types, video } = await page.evaluate(async () => {
    const door = globalThis.darkroom as Door;
    const { id } = (await door.list()).at(-1) as { id: string };
    door.follow(id, ({ progress }) => {
      if (progress?.stage === 'decode' && progress.step >= 3) {
        void door.cancel(id);
      }
    });
    const ended = await door.wait(id);
    const { entities } = await door.recordings.read(ended.run ?? '');
    const found = entities.find(({ type }) => type === 'output_video');
    return { types: [ended.state, ...entities.map(({ type }) => type)], video: found?.metadata };
  });
  expect(types).toEqual(['cancelled', 'input', 'config', 'encoded_prompt', 'output_video']);
  expect(video).toMatchObject({ is_part: true, width: 256, height: 256 });
  const { frames } = video as { frames: number };
  expect(frames).toBeGreaterThanOrEqual(3);
  expect(frames).toBeLessThan(24);
  await expect(
    page.getByText(`Cancelled after ${frames} of 24 frames, which are kept as a shorter video.`),
  ).toBeVisible();
  await expect(view.frames).toContainText(`Frame 1 of ${frames}`);
  await expect.poll(() => view.video.evaluate((one: HTMLVideoElement) => one.duration)).toBeCloseTo(frames / 8, 1);
  await page.screenshot({ path: join(outputDir, 'cancelled-1440.png'), fullPage: true });
});

test('every format that the browser encodes is read back with the right length and size, or refused in a sentence', async ({
  page,
}) => {
  await openDoor(page, 'wasm');
  const checkpoint = await openFolder(page, folder);
  for (const format of ['webm', 'mp4', 'zip'] as const) {
    const { error, name, base64 } = await page.evaluate(
      async ([ref, asked]) => {
        const door = globalThis.darkroom as Door;
        const parameters = { prompt: 'a fox', frames: 5, rate: 10, width: 64, height: 48, steps: 1, guidance_scale: 1 };
        const { id } = await door.submit({
          operation: 'video_generation',
          config: 'animatediff',
          checkpoint: ref,
          parameters: { ...parameters, format: asked },
        });
        const ended = await door.wait(id);
        const entity = ended.entities.find(({ type }) => type === 'output_video');
        const blob = entity && ended.run !== null ? await door.entity(ended.run, entity.filename) : new Blob([]);
        const content = new Uint8Array(await blob.arrayBuffer());
        return {
          error: ended.error?.message ?? null,
          name: entity?.filename ?? '',
          base64: btoa(Array.from(content, (byte) => String.fromCharCode(byte)).join('')),
        };
      },
      [checkpoint, format] as const,
    );
    if (error !== null) {
      // Chromium's free builds have no encoder for H.264.
      expect([format, error]).toEqual([
        'mp4',
        expect.stringMatching(/^This browser has no encoder for MP4 \(H\.264\)/),
      ]);
      continue;
    }
    expect(name).toMatch(new RegExp(`\\.${format}$`));
    const bytes = new Uint8Array(Buffer.from(base64, 'base64'));
    const video = await medium.decode(new Blob([bytes]));
    expect(video).toMatchObject({ width: 64, height: 48 });
    expect(medium.facts(video).seconds).toBeCloseTo(0.5, 2);
  }
});

test('a browser that is killed while a video is decoded: the finished latents are kept, so nothing is sampled again', async ({
  baseURL,
}, info) => {
  const profile = mkdtempSync(join(tmpdir(), 'darkroom-killed-video-'));
  const wan = writeWeightless(root, 'tiny-wan');
  const { launchOptions: launch } = info.project.use;
  const open = () => chromium.launchPersistentContext(profile, { ...launch, ...(baseURL ? { baseURL } : {}) });
  const parameters = { prompt: 'a fox', seed: '7', frames: 25, width: 96, height: 96, steps: 2, format: 'zip' };
  const operation = { operation: 'video_generation', config: 'wan', parameters };
  try {
    const first = await open();
    const page = await first.newPage();
    await openDoor(page, 'wasm');
    const checkpoint = await openFolder(page, wan);
    const id = await page.evaluate(
      async (given) => {
        const door = globalThis.darkroom as Door;
        const { id } = await door.submit(given);
        return new Promise<string>((reached, missed) => {
          door.follow(id, ({ progress, error }) => {
            if (progress?.stage === 'decode' && progress.step >= 5) {
              reached(id);
            } else if (error) {
              missed(new Error(error.message));
            }
          });
        });
      },
      { ...operation, checkpoint },
    );
    const session = await first.browser()!.newBrowserCDPSession();
    const { processInfo } = await session.send('SystemInfo.getProcessInfo');
    const died = new Promise<void>((closed) => first.on('close', () => closed()));
    process.kill(processInfo.find(({ type }) => type === 'browser')!.id, 'SIGKILL');
    await died;

    const second = await open();
    const again = await second.newPage();
    await openDoor(again, 'wasm');
    const stages = again.evaluate(
      (id) =>
        new Promise<string[]>((ended) => {
          const seen = new Set<string>();
          (globalThis.darkroom as Door).follow(id, ({ state, progress }) => {
            if (state === 'running' && progress) {
              seen.add(progress.stage);
            } else if (state !== 'pending' && state !== 'running') {
              ended([state, ...seen]);
            }
          });
        }),
      id,
    );
    // The job waits for its checkpoint's folder, so everything that it does now is seen.
    expect(await openFolder(again, wan)).toBe(checkpoint);
    expect(await stages).not.toContain('sample');
    expect((await stages)[0]).toBe('completed');
    expect(await stages).toContain('decode');
    const undisturbed = await again.evaluate(
      async (given) => {
        const door = globalThis.darkroom as Door;
        return (await door.wait((await door.submit(given)).id)).id;
      },
      { ...operation, checkpoint },
    );
    const [resumed, whole] = await Promise.all([frames(again, id), frames(again, undisturbed)]);
    expect(resumed.attempts).toBe(2);
    expect(whole.frames).toHaveLength(25);
    expect(resumed.frames).toEqual(whole.frames);
    await second.close();
  } finally {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }

  /** The PNGs of a recorded ZIP of frames, as base64. */
  async function frames(page: Page, id: string): Promise<{ attempts: number; frames: string[] }> {
    const { attempts, base64 } = await page.evaluate(async (id) => {
      const door = globalThis.darkroom as Door;
      const job = (await door.list()).find((one) => one.id === id);
      const entity = job?.entities.find(({ type }) => type === 'output_video');
      const file = entity && (await door.entity(entity.run, entity.filename));
      const bytes = new Uint8Array((await file?.arrayBuffer()) ?? new ArrayBuffer(0));
      return {
        attempts: job?.attempts ?? 0,
        base64: btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join('')),
      };
    }, id);
    const files = readStoredFiles(new Uint8Array(Buffer.from(base64, 'base64')));
    return {
      attempts,
      frames: files.filter(({ name }) => name.endsWith('.png')).map(({ data }) => Buffer.from(data).toString('base64')),
    };
  }
});
