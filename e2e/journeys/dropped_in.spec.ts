/**
 * "Adding a capability adds files and edits none": chunks, configs, a pipeline, a medium and its viewer, an engine and a family are dropped
 * into a copy of the project, which is built and run through page, doors and command line. A second picture chunk with parameters of its
 * own; a tone; three steps in a row, of which two use one chunk; scents; an engine, and a family of checkpoints that are two colours.
 */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { deflateSync } from 'node:zlib';
import { expect, test, type Page } from '@playwright/test';
import { serveFolder } from '../../cli/server.js';
import type { Job } from '../../src/core/job.ts';
import { chunk } from '../../test/picture_files.ts';
import { openFolder, runOperation } from '../fixtures/door.ts';
import { PARTS, PROJECT } from '../fixtures/project.ts';

const KEY = 'a-key-that-nobody-may-find';

/** How many files the browser has stored for each field of a config. Only these outlast a reload. */
function keptFiles(page: Page, config: string): Promise<Record<string, number>> {
  return page.evaluate(async (prefix) => {
    const opened = indexedDB.open('darkroom-kept');
    await new Promise((done) => (opened.onsuccess = done));
    const kept = opened.result.transaction('kept').objectStore('kept');
    const [keys, values] = [kept.getAllKeys(), kept.getAll()];
    await new Promise((done) => (values.onsuccess = done));
    opened.result.close();
    const counts = keys.result.map((key, at) => [key as string, (values.result[at] as unknown[]).length] as const);
    return Object.fromEntries(
      counts.filter(([key]) => key.startsWith(prefix)).map(([key, count]) => [key.slice(prefix.length), count]),
    );
  }, `field/${config}/`);
}

test.describe.serial('what is dropped in', () => {
  const copy = mkdtempSync(join(tmpdir(), 'darkroom-copy-'));
  const checkpoint = join(copy, 'linen');
  let url = '';
  let close: () => Promise<void> = () => Promise.resolve();

  test.beforeAll(async () => {
    for (const part of PARTS) {
      cpSync(join(PROJECT, part), join(copy, part), { recursive: true });
    }
    symlinkSync(join(PROJECT, 'node_modules'), join(copy, 'node_modules'));
    const dropped = join(PROJECT, 'e2e', 'fixtures', 'dropped_in');
    cpSync(join(dropped, 'chunks'), join(copy, 'chunks'), { recursive: true });
    cpSync(join(dropped, 'configs'), join(copy, 'src', 'configs'), { recursive: true });
    cpSync(join(dropped, 'pipelines'), join(copy, 'src', 'pipelines'), { recursive: true });
    cpSync(join(dropped, 'models'), join(copy, 'src', 'models'), { recursive: true });
    cpSync(join(dropped, 'engines'), join(copy, 'src', 'engines'), { recursive: true });
    cpSync(join(dropped, 'media'), join(copy, 'src', 'media'), { recursive: true });
    cpSync(join(dropped, 'viewers'), join(copy, 'src', 'app', 'media'), { recursive: true });
    mkdirSync(checkpoint);
    writeFileSync(join(checkpoint, 'model_index.json'), '{ "_class_name": "WeavePipeline" }');
    writeFileSync(join(checkpoint, 'threads.json'), '{ "warp": [200, 30, 30], "weft": [30, 30, 200] }');
    await promisify(execFile)('npx', ['--no-install', 'vite', 'build'], { cwd: copy });
    ({ url, close } = await serveFolder(join(copy, 'dist')));
  });
  test.afterAll(async () => {
    await close();
    rmSync(copy, { recursive: true, force: true });
  });

  test('is in the schema, and a picture chunk of its own parameters paints', async ({ page }) => {
    const schema = readFileSync(join(copy, 'dist', 'schemas', 'operation.json'), 'utf8');
    expect(schema).toContain('#/definitions/gradient');
    expect(schema).toContain('#/definitions/tone');
    await openDoor(page, url);
    const { job, pictures } = await runOperation(page, {
      operation: 'image_generation',
      config: 'gradient',
      parameters: { prompt: '' },
    });
    expect(job.error).toBeNull();
    expect(job.operation.checkpoint).toBeNull();
    expect(pictures).toHaveLength(1);
    expect(pictures[0]).toMatchObject({ width: 32, height: 16 });
    expect([...pictures[0].rgba.slice(-4)]).toEqual([255, 255, 0, 255]);
    expect(job.entities.map(({ type }) => type)).toEqual(['input', 'config', 'output_image']);
  });

  test('opens checkpoints of its own family, and says of others what it says of them', async ({ page }) => {
    await openDoor(page, url);
    const weave = { operation: 'image_generation', config: 'weave', parameters: { prompt: 'linen' } };
    const ref = await openFolder(page, checkpoint);
    expect(ref).toBe('folder:linen');
    const { job, pictures } = await runOperation(page, { ...weave, checkpoint: ref });
    expect(job.error).toBeNull();
    expect(pictures[0]).toMatchObject({ width: 24, height: 16 });
    expect([...pictures[0].rgba.slice(0, 8)]).toEqual([200, 30, 30, 255, 30, 30, 200, 255]);
    const other = await runOperation(page, { ...weave, config: 'stable_diffusion', checkpoint: ref });
    expect(other.job.error).toMatchObject({ code: 'checkpoint_unsupported' });
    expect(other.job.error?.message).toContain('"linen" is a WeavePipeline');
  });

  test('runs on an engine of its own, whose sentences are told', async ({ page }) => {
    await openDoor(page, url);
    const whistle = { operation: 'audio_generation', config: 'whistle', parameters: { prompt: 'abc' } };
    const without = await make(page, whistle);
    expect(without.job.error).toMatchObject({ code: 'invalid_operation' });
    expect(without.job.error?.message).toBe('The key "whistle" is not there; enter it, then try again.');
    await page.evaluate(() => globalThis.darkroom?.setSecret('whistle', 'too short'));
    const refused = await make(page, whistle);
    expect(refused.job.error).toMatchObject({ code: 'origin_unavailable' });
    expect(refused.job.error?.message).toBe('The whistle does not take this key; enter another one.');
    await page.evaluate((key) => globalThis.darkroom?.setSecret('whistle', key), KEY);
    const { job } = await make(page, whistle);
    expect(job.error).toBeNull();
    expect(job.entities.at(-1)).toMatchObject({ type: 'output_audio', metadata: { channels: 1, rate: 8000 } });
  });

  test('is made by the command line like everything else', async () => {
    // A path: the command line asks the dropped-in chunk's own schema which of its parameters are files.
    const picture = join(copy, 'red.png');
    writeFileSync(picture, solid('red.png', [255, 0, 0]).buffer);
    const made = [
      await generate({ operation: 'image_generation', config: 'weave', parameters: { prompt: '' } }, { checkpoint }),
      await generate({ operation: 'image_generation', config: 'gradient', parameters: { prompt: '', width: 16 } }),
      await generate({ operation: 'image_generation', config: 'stripes', parameters: { prompt: '', picture } }),
      await generate({ operation: 'audio_generation', config: 'tone', parameters: { prompt: 'a' } }),
      await generate(
        { operation: 'audio_generation', config: 'whistle', parameters: { prompt: 'abc' } },
        { environment: { WHISTLE_API_KEY: KEY } },
      ),
      await generate({ operation: 'scent_generation', config: 'garden', parameters: { prompt: 'rose' } }),
    ];
    expect(made).toEqual([
      ['01_input.json', '02_config.json', '03_output_image.png'],
      ['01_input.json', '02_config.json', '03_output_image.png'],
      ['01_input_picture.png', '02_input.json', '03_config.json', '04_output_image.png'],
      ['01_input.json', '02_config.json', '03_first.txt', '04_second.txt', '05_output_audio.wav'],
      ['01_input.json', '02_config.json', '03_output_audio.wav'],
      ['01_input.json', '02_config.json', '03_output_scent.scent'],
    ]);
  });

  test('is made through the door: scents, and stripes of pictures that are handed over', async ({ page }) => {
    await openDoor(page, url);
    const scent = await make(page, { operation: 'scent_generation', config: 'garden', parameters: { prompt: 'rose' } });
    expect(scent.job.error).toBeNull();
    expect(scent.files.output_scent).toBe('SCENT\0rose');
    const [red, blue] = [solid('red.png', [255, 0, 0]), solid('blue.png', [0, 0, 255])].map(
      ({ buffer }) => `data:image/png;base64,${buffer.toString('base64')}`,
    );
    const { job, pictures } = await runOperation(page, {
      operation: 'image_generation',
      config: 'stripes',
      parameters: { prompt: '', picture: red, others: [blue] },
    });
    expect(job.error).toBeNull();
    expect(pictures[0]).toMatchObject({ width: 16 });
    expect([...pictures[0].rgba.slice(0, 3)]).toEqual([255, 0, 0]);
    expect([...pictures[0].rgba.slice(4 * 8, 4 * 8 + 3)]).toEqual([0, 0, 255]);
  });

  test('is used on the page: a checkpoint of the family, and the engine with its key', async ({ page }) => {
    await page.goto(`${url}/?backend=wasm`);
    await page.getByTestId('checkpoint-folder').setInputFiles(checkpoint);
    const ways = page.getByLabel('What to make it with');
    await ways.selectOption({ label: 'Weave' });
    const prompt = page.getByRole('textbox', { name: 'Prompt', exact: true });
    await prompt.fill('linen');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible();

    await page.goto(`${url}/?backend=wasm#engines`);
    await page.getByLabel('Kind').selectOption({ label: 'Whistle' });
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByRole('article').filter({ hasText: 'http://127.0.0.1:9' })).toBeVisible();
    await page.getByLabel('Key', { exact: true }).fill(KEY);
    await page.getByRole('button', { name: 'Look again' }).click();
    await page.getByRole('link', { name: 'Studio' }).click();
    await page
      .getByRole('radiogroup', { name: 'What to make' })
      .getByRole('radio', { name: 'Sound' })
      .check({ force: true });
    await ways.selectOption({ label: 'Whistle' });
    await prompt.fill('abc');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(
      page.getByRole('region', { name: 'Sound', exact: true }).getByRole('button', { name: 'Play' }),
    ).toBeEnabled();
    const runs = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 2 })) ?? []);
    expect(runs.map(({ operation, entities }) => [operation?.config, entities.at(-1)?.type])).toEqual([
      ['whistle', 'output_audio'],
      ['weave', 'output_image'],
    ]);
  });

  test('leaves the first Generate what it was', async ({ page }) => {
    await page.goto(`${url}/?backend=wasm`);
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible({ timeout: 300_000 });
  });

  test('has a form of its own on the page, which keeps what is typed, says what is wrong, and plays what it made', async ({
    page,
  }) => {
    await page.goto(`${url}/?backend=wasm`);
    await page
      .getByRole('radiogroup', { name: 'What to make' })
      .getByRole('radio', { name: 'Sound' })
      .check({ force: true });
    await page.getByLabel('What to make it with').selectOption({ label: 'Tone' });
    const prompt = page.getByRole('textbox', { name: 'Prompt', exact: true });
    await prompt.fill('a');
    await page.getByText('More settings').click();
    const frequency = page.getByRole('textbox', { name: 'Frequency', exact: true });
    await expect(frequency).toHaveValue('440');
    await frequency.fill('5');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(frequency).toBeFocused();
    await expect(frequency).toHaveAttribute('aria-invalid', 'true');
    await frequency.fill('220');
    await page.reload();
    await expect(prompt).toHaveValue('a');
    await expect(frequency).toHaveValue('220');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(
      page.getByRole('region', { name: 'Sound', exact: true }).getByRole('button', { name: 'Play' }),
    ).toBeEnabled();
    const made = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 1 }))?.[0]);
    expect(made?.operation).toMatchObject({ config: 'tone', parameters: { prompt: 'a', frequency: 220 } });

    // Picture configs with parameters of their own are offered beside the checkpoint's.
    await page.getByRole('radio', { name: 'Picture' }).check({ force: true });
    await page.getByRole('combobox', { name: 'What to make it with' }).selectOption({ label: 'Gradient' });
    const width = page.getByRole('textbox', { name: 'Width', exact: true });
    await expect(width).toHaveValue('32');
    await width.fill('64');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible();
    // A sound brings its settings back.
    await page.getByRole('button', { name: 'Show: a', exact: true }).click();
    await page.getByRole('button', { name: 'Use these settings' }).click();
    await expect(page.getByRole('radio', { name: 'Sound' })).toBeChecked();
    await expect(frequency).toHaveValue('220');
  });

  test('has a medium of its own: chosen, made, shown by its viewer, listed, saved and served', async ({ page }) => {
    await page.goto(`${url}/?backend=wasm`);
    await page
      .getByRole('radiogroup', { name: 'What to make' })
      .getByRole('radio', { name: 'Scent' })
      .check({ force: true });
    await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('rose cedar rain');
    await page.getByRole('button', { name: /^Generate/ }).click();
    const told = page.getByRole('region', { name: 'rose cedar rain' });
    await expect(told).toHaveText('rose');
    const made = await page.evaluate(async () => {
      const door = globalThis.darkroom;
      const [run] = (await door?.runs({ limit: 1 })) ?? [];
      const file = await door?.entity(run.run_id, '03_output_scent.scent');
      return { type: file?.type, text: await file?.text(), parameters: run.operation?.parameters };
    });
    expect(made).toEqual({
      type: 'application/x-scent',
      text: 'SCENT\0rose,cedar,rain',
      parameters: { prompt: 'rose cedar rain' },
    });

    await page.getByRole('link', { name: 'Recordings', exact: true }).click();
    const show = page.getByRole('grid').getByRole('button', { name: 'Show: rose cedar rain' });
    await expect(show.locator('.photo')).toHaveText('Scent');
    await show.click();
    // Streaming words are shown as they arrive.
    const details = page.getByRole('dialog');
    const shown = details.getByRole('region', { name: 'rose cedar rain' });
    await expect(shown).toHaveAttribute('aria-busy', 'true');
    await details.getByRole('button', { name: 'Next note' }).click();
    await details.getByRole('button', { name: 'Next note' }).click();
    await expect(shown).toHaveText('rosecedarrain');
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      details.getByRole('link', { name: 'Save as Scent' }).click(),
    ]);
    expect(download.suggestedFilename()).toMatch(/\.scent$/);
  });

  test('asks for pictures in its form: one that is needed, and several that may be given', async ({ page }) => {
    await page.goto(`${url}/?backend=wasm`);
    await page.getByLabel('What to make it with').selectOption({ label: 'Stripes' });
    const generate = page.getByRole('button', { name: /^Generate/ });
    await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('stripes');
    const [one, several] = ['.choose input:not([multiple])', '.choose input[multiple]'].map((input) =>
      page.locator(input),
    );
    const field = (name: string) => page.getByRole('list', { name, exact: true });
    const wrong = (sentence: string) => page.getByRole('status').filter({ hasText: sentence });

    await generate.click();
    await expect(wrong('Picture is missing.')).toBeVisible();
    await one.setInputFiles({ name: 'notes.png', mimeType: 'image/png', buffer: Buffer.from('no picture') });
    await expect(wrong('"notes.png" is not a picture that this browser can read.')).toBeVisible();
    await one.setInputFiles(solid('red.png', [255, 0, 0]));
    await expect(field('Picture').getByRole('img', { name: 'red.png' })).toBeVisible();
    await expect(wrong('Picture is missing.')).toHaveCount(0);
    // A single picture replaces the previous one; a list keeps its order, up to its maximum.
    await one.setInputFiles(solid('green.png', [0, 255, 0]));
    await expect(field('Picture').getByRole('img')).toHaveCount(1);
    await several.setInputFiles([solid('blue.png', [0, 0, 255]), solid('red.png', [255, 0, 0])]);
    await several.setInputFiles(['white', 'grey', 'black'].map((name) => solid(`${name}.png`, [255, 255, 255])));
    await expect(wrong('Others must be at most 3 pictures.')).toBeVisible();
    for (const name of ['red.png', 'grey.png', 'black.png']) {
      await field('Others')
        .getByRole('button', { name: `Remove ${name}` })
        .click();
    }
    await expect(field('Others').getByRole('img')).toHaveCount(2);
    await expect(wrong('at most 3 pictures')).toHaveCount(0);

    await expect.poll(() => keptFiles(page, 'stripes')).toEqual({ picture: 1, others: 2 });
    await page.reload();
    await expect(field('Picture').getByRole('img', { name: 'green.png' })).toBeVisible();
    await generate.click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible();
    const made = await page.evaluate(async () => {
      const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
      const file = async (wanted: string) => {
        const { filename } = run.entities.find(({ type }) => type === wanted) ?? { filename: '' };
        return (await globalThis.darkroom?.entity(run.run_id, filename)) as Blob;
      };
      const { parameters } = JSON.parse(await (await file('input')).text()) as { parameters: object };
      const bitmap = await createImageBitmap(await file('output_image'));
      const pen = new OffscreenCanvas(bitmap.width, bitmap.height).getContext(
        '2d',
      ) as OffscreenCanvasRenderingContext2D;
      pen.drawImage(bitmap, 0, 0);
      const stripes = Array.from({ length: bitmap.width / 8 }, (_, at) => [
        ...pen.getImageData(at * 8, 0, 1, 1).data.slice(0, 3),
      ]);
      return { types: run.entities.map(({ type }) => type), stripes, parameters };
    });
    expect(made.types).toEqual(['input_picture', 'input_others', 'input_others', 'input', 'config', 'output_image']);
    expect(made.parameters).toMatchObject({
      picture: '01_input_picture.png',
      others: ['02_input_others.png', '03_input_others.png'],
    });
    expect(made.stripes).toEqual([
      [0, 255, 0],
      [0, 0, 255],
      [255, 255, 255],
    ]);
    // They come back with a run's settings, even if it exists only in the recordings.
    for (const isAnotherDay of [false, true]) {
      await field('Picture')
        .getByRole('button', { name: /^Remove / })
        .click();
      await field('Others')
        .getByRole('button', { name: /^Remove / })
        .first()
        .click();
      if (isAnotherDay) {
        await expect.poll(() => keptFiles(page, 'stripes')).toEqual({ picture: 0, others: 1 });
        await page.reload();
        await page
          .getByRole('region', { name: 'Made so far' })
          .getByRole('button', { name: /^Show:/ })
          .click();
      }
      await expect(field('Picture')).toHaveCount(0);
      await expect(field('Others').getByRole('img')).toHaveCount(1);
      await page.getByRole('button', { name: 'Use these settings' }).click();
      await expect(field('Picture').getByRole('img')).toHaveCount(1);
      await expect(field('Others').getByRole('img')).toHaveCount(2);
    }
  });

  test('runs step by step, each an entity of the run, with words that are told while they are written', async ({
    page,
  }) => {
    await openDoor(page, url);
    const { job, files, words } = await make(page, { parameters: { prompt: 'a', frequency: 220 } });
    expect(job.error).toBeNull();
    expect(job.entities.map(({ type, filename }) => [type, filename])).toEqual([
      ['input', '01_input.json'],
      ['config', '02_config.json'],
      ['first', '03_first.txt'],
      ['second', '04_second.txt'],
      ['output_audio', '05_output_audio.wav'],
    ]);
    expect([files.first, files.second]).toEqual(['a long', 'a long tone']);
    expect(words).toEqual({ first: 'a long', second: 'a long tone' });
    const sound = job.entities.at(-1)?.metadata;
    expect(sound).toMatchObject({
      operation: 'audio_generation',
      step: 'output',
      channels: 1,
      parameters: { prompt: 'a long tone', frequency: 220 },
    });
  });

  test('goes on from words that somebody edited, and stops where it is asked to', async ({ page }) => {
    await openDoor(page, url);
    const given = { second: { text: 'mine' } };
    const edited = await make(page, { parameters: { prompt: 'a' }, given });
    expect(edited.job.error).toBeNull();
    expect(edited.job.entities.map(({ type }) => type)).toEqual(['input', 'config', 'second', 'output_audio']);
    expect(edited.files.second).toBe('mine');
    expect(edited.job.entities.at(-1)?.metadata.parameters).toMatchObject({ prompt: 'mine' });
    const before = await make(page, { parameters: { prompt: 'a' }, until: 'first' });
    expect(before.job.entities.map(({ type }) => type)).toEqual(['input', 'config', 'first']);
    const strange = await make(page, { parameters: { prompt: 'a', words: 1 } });
    expect(strange.job.error?.message).toBe(
      'The parameter object has an unknown field "words"; remove it or check its spelling.',
    );
    // A step's output is validated like what a person types.
    const long = await make(page, { parameters: { prompt: 'a'.repeat(39) } });
    expect(long.job.error?.message).toBe('text must be at most 40 letters.');
  });

  test('a chunk that takes two texts gets them as the pipeline names them', async ({ page }) => {
    await openDoor(page, url);
    const { job } = await make(page, { config: 'duet', parameters: { TEXT_1: 'la la', TEXT_2: 'slow' } });
    expect(job.error).toBeNull();
    expect(job.entities.at(-1)?.metadata).toMatchObject({
      channels: 2,
      parameters: { lyrics: 'la la', tags: 'slow' },
    });
    const one = await make(page, { config: 'duet', parameters: { TEXT_1: 'la la' } });
    expect(one.job.error).toMatchObject({
      code: 'invalid_operation',
      message: expect.stringContaining('tags'),
    });
  });

  test('a run that was broken off reads back what earlier steps recorded, and goes on in the step that was at work', async ({
    page,
  }) => {
    await openDoor(page, url);
    const { job, files } = await make(page, { parameters: { prompt: 'a', second: { breaks: true } } });
    expect(job).toMatchObject({ state: 'completed', error: null, attempts: 2 });
    expect(job.entities.map(({ filename }) => filename)).toEqual([
      '01_input.json',
      '02_config.json',
      '03_first.txt',
      '04_second.txt',
      '05_output_audio.wav',
    ]);
    expect(files.second).toBe('a long tone');
  });

  test('a key is handed to the step that asks for it, and found nowhere afterwards', async ({ page }) => {
    await openDoor(page, url);
    const without = await make(page, { parameters: { prompt: 'a', key: 'service' } });
    expect(without.job.error).toMatchObject({
      code: 'invalid_operation',
      message: 'The key "service" is not there; enter it, then try again.',
    });
    await page.evaluate((value) => globalThis.darkroom?.setSecret('service', value), KEY);
    const { job } = await make(page, { parameters: { prompt: 'a', key: 'service' } });
    expect(job.notices).toEqual([`The key has ${KEY.length} letters.`]);
    const kept = await page.evaluate(async () => {
      const runs = (await globalThis.darkroom?.runs({ limit: 50 })) ?? [];
      const texts = [JSON.stringify(await globalThis.darkroom?.list()), JSON.stringify(runs)];
      for (const { run_id: run, entities } of runs) {
        for (const { filename } of entities) {
          texts.push((await (await globalThis.darkroom?.entity(run, filename))?.text()) ?? '');
        }
      }
      return texts.join('\n');
    });
    expect(kept).toContain('service');
    expect(kept).not.toContain(KEY);
  });

  /** The files that the copy's command line writes. */
  async function generate(
    operation: object,
    given: { checkpoint?: string; environment?: Record<string, string> } = {},
  ): Promise<string[]> {
    const out = mkdtempSync(join(copy, 'out-'));
    writeFileSync(join(out, 'operation.json'), JSON.stringify(operation));
    const words = [join(out, 'operation.json'), '--out', out, '--backend', 'wasm'];
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['cli/generate.js', ...words, ...(given.checkpoint ? ['--checkpoint', given.checkpoint] : [])],
      { cwd: copy, env: { ...process.env, ...given.environment } },
    );
    const files = stdout.trim().split('\n');
    return files.map((line) => basename((JSON.parse(line) as { file: string }).file));
  }
});

/** A picture of a single colour, as a person would pick one. */
function solid(name: string, [red, green, blue]: [number, number, number]) {
  const [header, rows] = [Buffer.alloc(13), Buffer.alloc(2 * (1 + 2 * 3))];
  header.writeUInt32BE(2, 0);
  header.writeUInt32BE(2, 4);
  header.set([8, 2], 8);
  [1, 4, 8, 11].forEach((at) => rows.set([red, green, blue], at));
  const signature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
  const parts = [chunk('IHDR', header), chunk('IDAT', deflateSync(rows)), chunk('IEND', new Uint8Array())];
  return { name, mimeType: 'image/png', buffer: Buffer.concat([Buffer.from(signature), ...parts]) };
}

async function openDoor(page: Page, url: string): Promise<void> {
  await page.goto(`${url}/?door=cli&backend=wasm`);
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
}

/** Runs the three steps; `files` are the words that were recorded, by type, and `words` those that were told, by step. */
function make(
  page: Page,
  operation: object,
): Promise<{ job: Job; files: Record<string, string>; words: Record<string, string> }> {
  return page.evaluate(
    async (asked) => {
      const door = globalThis.darkroom;
      if (!door) {
        throw new Error('The page has no door.');
      }
      const id = crypto.randomUUID();
      const words: Record<string, string> = {};
      const stop = door.deltas(id, ({ step, text }) => (words[step] = (words[step] ?? '') + text));
      await door.submit(asked, id);
      const job = await door.wait(id);
      stop();
      const files: Record<string, string> = {};
      for (const { type, filename } of job.entities) {
        files[type] = await (await door.entity(job.run ?? '', filename)).text();
      }
      return { job, files, words };
    },
    { operation: 'audio_generation', config: 'tone', ...operation },
  );
}
