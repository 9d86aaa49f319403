/** Checkpoints from the hub: inspected, fetched once, run, quantised on arrival, from the page's door and from the command line. */
import { spawn } from 'node:child_process';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect } from '@playwright/test';
import { findChromium } from '../../cli/chromium.js';
import type { Door } from '../../src/jobs/door.ts';
import {
  HUB,
  LARGE,
  REF,
  TINY,
  TINY_REF,
  UNET,
  download,
  expectRight,
  expectRuns,
  expectSentence,
  list,
  openPage,
  sizeOf,
  test,
} from '../fixtures/library.ts';

test('a repository arrives once, runs, and goes on running without a network', async ({ door, context, hub }) => {
  const { stored, progress } = await download(door, HUB(TINY));
  const total = sizeOf(hub.repositories.get(TINY)?.files as Map<string, Buffer>);
  expect(stored).toMatchObject({ ref: TINY_REF, state: 'complete', bytes: total, storedBytes: total });
  expect(progress).toMatchObject({ done: total, total });
  expect(hub.asked).toBe(total);
  expect(hub.preflights).toBe(0);
  await download(door, HUB(TINY));
  expect(hub.asked).toBe(total);
  const before = Date.now();
  await expectRuns(context, TINY_REF);
  const [listed] = await list(door);
  expect(listed.usedAt).toBeGreaterThanOrEqual(before);

  const page = await openPage(context, true);
  await page.evaluate(() => (globalThis.darkroom as Door).device());
  await context.setOffline(true);
  expect(
    await page.evaluate((ref) => (globalThis.darkroom as Door).openStored(ref).then(({ name }) => name), TINY_REF),
  ).toBe(TINY);
  expectSentence(await download(door, HUB('someone/else')), 'origin_unavailable', /no connection/);
});

test('a repository is described from its headers alone, and says which files a run needs', async ({ context, hub }) => {
  hub.begin();
  const page = await openPage(context, true);
  const summary = await page.evaluate(async (origin) => {
    const door = globalThis.darkroom as Door;
    return door.describe(await door.library.look(origin, null), null);
  }, HUB(LARGE));
  expect(summary).toMatchObject({ ref: REF, pipelineClass: 'StableDiffusionPipeline' });
  expect(summary.needs).toContain(UNET);
  expect(hub.asked).toBeLessThan(1.5 * 2 ** 20);
  expect(await list(page)).toEqual([]);
});

test('weights that are quantised on arrival are smaller, right and repaired', async ({ door, context, hub }) => {
  const ref = `${TINY_REF}#q8`;
  const { stored, error } = await download(door, HUB(TINY), 'q8');
  expect(error).toBeNull();
  expect(stored).toMatchObject({ ref, variant: 'q8', state: 'complete' });
  expect(stored?.storedBytes).toBeLessThan(sizeOf(hub.repositories.get(TINY)?.files as Map<string, Buffer>));
  await expectRight(door, ref);
  await expectRuns(context, ref);
});

test('a checkpoint goes out to a folder and comes back without a network', async ({ door, context }) => {
  await download(door, HUB(TINY));
  await context.setOffline(true);
  const paths = await door.evaluate(async (ref) => {
    const { library } = globalThis.darkroom as Door;
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('stick', { create: true });
    await library.exportFolder(ref, folder, () => undefined);
    await library.remove(ref);
    const files: { path: string; file: File }[] = [];
    const walk = async (from: FileSystemDirectoryHandle, path: string) => {
      for await (const entry of from.values()) {
        if (entry.kind === 'directory') {
          await walk(entry, `${path}${entry.name}/`);
        } else {
          files.push({ path: path + entry.name, file: await entry.getFile() });
        }
      }
    };
    await walk(folder, 'stick/');
    await library.importFolder('stick', files, () => undefined);
    return files.map(({ path }) => path);
  }, TINY_REF);
  expect(paths).toContain('stick/someone_tiny/darkroom.json');
  expect(paths).toContain(`stick/someone_tiny/${UNET}`);
  await expectRight(door, TINY_REF);
});

test('the command line fetches a repository once', async ({ hub }, info) => {
  test.skip(process.platform === 'win32', 'The wrapper that hands flags to Chromium is a shell script.');
  hub.begin();
  const folder = info.outputPath('cli');
  mkdirSync(folder, { recursive: true });
  const flags = hub.flags.map((flag) => `'${flag}'`).join(' ');
  writeFileSync(join(folder, 'chromium.sh'), `#!/bin/sh\nexec '${findChromium()}' ${flags} "$@"\n`);
  chmodSync(join(folder, 'chromium.sh'), 0o755);
  const parameters = { prompt: 'a cat', width: 64, height: 64, steps: 1, guidance_scale: 0, seed: '1' };
  writeFileSync(
    join(folder, 'operation.json'),
    JSON.stringify({ operation: 'image_generation', config: 'stable_diffusion', parameters }),
  );
  const generate = () =>
    new Promise<{ code: number | null; out: string; err: string }>((done, failed) => {
      const words = ['operation.json', '--out', 'out', '--checkpoint', TINY, '--backend', 'wasm'];
      const child = spawn(process.execPath, [resolve('cli/generate.js'), ...words], {
        cwd: folder,
        env: {
          ...process.env,
          INIT_CWD: folder,
          DARKROOM_CHROMIUM: join(folder, 'chromium.sh'),
          DARKROOM_PROFILE: join(folder, 'profile'),
        },
      });
      const result = { code: null as number | null, out: '', err: '' };
      child.stdout.on('data', (text: Buffer) => (result.out += text.toString()));
      child.stderr.on('data', (text: Buffer) => (result.err += text.toString()));
      child.once('error', failed);
      child.once('close', (code) => done({ ...result, code }));
    });
  const first = await generate();
  expect(first.code, first.err).toBe(0);
  expect(first.err).toMatch(/^download 100 % of 5\.1 MB$/m);
  const last = JSON.parse(first.out.trimEnd().split('\n').at(-1) ?? '') as { entity_type: string; sha256: string };
  expect(last.entity_type).toBe('output_image');
  hub.begin();
  const second = await generate();
  expect(second.code, second.err).toBe(0);
  expect(hub.asked).toBe(0);
  expect(second.out).toContain(last.sha256);
});
