/**
 * "Adding a capability adds files and edits none": chunks, configs and a pipeline are dropped into a copy of the project, which is built and run.
 * A second picture chunk with parameters of its own; a tone; and three steps in a row, of which two use one chunk.
 */
import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test, type Page } from '@playwright/test';
import { serveFolder } from '../../cli/server.js';
import type { Job } from '../../src/core/job.ts';
import { runOperation } from '../fixtures/door.ts';
import { PARTS, PROJECT } from '../fixtures/project.ts';

const KEY = 'a-key-that-nobody-may-find';

test.describe.serial('what is dropped in', () => {
  const copy = mkdtempSync(join(tmpdir(), 'darkroom-copy-'));
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

  test('leaves the first Generate what it was', async ({ page }) => {
    await page.goto(`${url}/?backend=wasm`);
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible({ timeout: 300_000 });
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
    // What a step gives is judged like what a person types.
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
});

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
