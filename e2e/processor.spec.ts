/** Without a GPU, in the page: the number of threads, automatic tiled decoding, and an engine that is ready before it is needed. */
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { CHECKPOINTS, openDoor, openFolder, readGolden, runOperation } from './fixtures/door.ts';

const golden = readGolden('sd15-euler-trailing-unguided');
const FOLDER = join(CHECKPOINTS, golden.checkpoint);
const BUILTIN = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'a red circle', width: 64, height: 64, steps: 1, seed: '42' },
};
const quick = { ...golden.operation, parameters: { ...golden.operation.parameters, steps: 1 } };

test('the address says how many threads compute, within what the machine has', async ({ page }) => {
  await openDoor(page, 'wasm', '&threads=1');
  expect((await page.evaluate(() => globalThis.darkroom?.device()))?.threads).toBe(1);
  const cores = await page.evaluate(() => navigator.hardwareConcurrency);
  await openDoor(page, 'wasm', '&threads=1000');
  const device = await page.evaluate(() => globalThis.darkroom?.device());
  expect(device?.threads).toBe(Math.min(cores, 16));
  expect(device?.note).toMatch(/The address asks for "1000" threads, but this machine can use 1 to \d+/);
});

test('after the first picture the best number of threads is measured and kept', async ({ page }) => {
  await openDoor(page, 'wasm');
  await openFolder(page, FOLDER);
  expect((await runOperation(page, quick)).job.error).toBeNull();
  const kept = () =>
    page.evaluate(
      () =>
        new Promise<number | undefined>((resolve) => {
          const opening = indexedDB.open('darkroom-device');
          opening.onsuccess = () => {
            const key = `threads/fastest/${navigator.hardwareConcurrency}`;
            const reading = opening.result.transaction('rates').objectStore('rates').get(key);
            reading.onsuccess = () => {
              opening.result.close();
              resolve(reading.result as number | undefined);
            };
          };
        }),
    );
  await expect.poll(kept, { timeout: 300_000 }).toBeGreaterThan(0);
  const found = await kept();
  await openDoor(page, 'wasm');
  expect((await page.evaluate(() => globalThis.darkroom?.device()))?.threads).toBe(found);
});

test('a picture that cannot be decoded as a whole is decoded in tiles by itself, and says so', async ({ page }) => {
  await openDoor(page, 'wasm');
  const ref = await openFolder(page, FOLDER);
  const large = { ...quick, parameters: { ...quick.parameters, width: 1024, height: 64 } };
  const asked = await runOperation(page, { ...large, parameters: { ...large.parameters, tile_size: 512 } });
  expect(asked.job.error).toBeNull();
  await page.evaluate(async (checkpoint) => {
    const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
    const size = { width: 1024, height: 64, batch_size: 1, steps: 1, guidance_scale: 1 };
    const request = { operation: 'image_generation', ...size, weights: 'full' as const };
    const { variants } = await door.estimate(checkpoint, { ...request, tile_size: 512 });
    await door.planWith(variants[0].memory.peak);
  }, ref);
  const made = await runOperation(page, { ...large, parameters: { ...large.parameters, weights: 'full' } });
  expect(made.job.error).toBeNull();
  expect(made.job.notices.join(' ')).toMatch(/decoded in tiles of 512 pixels/);
  expect(made.pictures[0].width).toBe(1024);
  expect(Buffer.compare(made.pictures[0].rgba, asked.pictures[0].rgba)).toBe(0);
});

test('what an operation runs on is on the device before it is asked, makes the same picture, and is freed', async ({
  page,
}) => {
  await openDoor(page, 'wasm');
  await openFolder(page, FOLDER);
  const engine = () => page.evaluate(() => globalThis.darkroom?.engine());
  expect((await engine())?.prepared).toBeNull();
  await page.evaluate((operation) => globalThis.darkroom?.prepare(operation), quick);
  const ready = await engine();
  expect(ready?.prepared?.checkpoint).toContain(golden.checkpoint);
  expect([...(ready?.prepared?.networks ?? [])].sort()).toEqual([
    'text_encoder',
    'unet',
    'unet_context',
    'vae_decoder',
  ]);
  const sessions = () => page.evaluate(() => globalThis.darkroom?.ledger());
  const before = await sessions();
  // Each of them was run once, and the decoder also to fit the colours of previews.
  expect(before?.networkRuns).toBeGreaterThanOrEqual(5);
  const made = await runOperation(page, golden.operation);
  expect(made.job.error).toBeNull();
  expect(made.latents).not.toBeNull();
  const worst = made.latents!.reduce((most, value, i) => Math.max(most, Math.abs(value - golden.latents[i])), 0);
  expect(worst).toBeLessThanOrEqual(1e-3);
  expect((await sessions())?.liveBuffers).toBe(before?.liveBuffers);
  // Whatever computes does so in workers, so that the page stays free.
  const runtimes = () =>
    performance
      .getEntriesByType('resource')
      .map(({ name }) => name)
      .filter((name) => /\.wasm|ort[-.]/.test(name));
  expect(await page.evaluate(runtimes)).toEqual([]);
  const worker = page.workers().find((one) => one.url().includes('generation'));
  expect(await worker?.evaluate(runtimes)).not.toEqual([]);
  // Preparing during a job does nothing; a job that starts during preparation goes first.
  const [both] = await page.evaluate(async (operation) => {
    const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
    await door.unload();
    const preparing = door.prepare(operation);
    const { id } = await door.submit(operation);
    return Promise.all([door.wait(id), preparing]);
  }, quick);
  expect(both.error).toBeNull();
  await page.evaluate(() => globalThis.darkroom?.unload());
  expect((await engine())?.prepared).toBeNull();
});

test('what cannot run is refused while it is prepared', async ({ page }) => {
  await openDoor(page, 'wasm');
  await openFolder(page, FOLDER);
  const refused = page.evaluate(
    (operation) =>
      globalThis.darkroom?.prepare({ ...operation, parameters: { ...operation.parameters, width: 7 } }).then(
        () => null,
        (error: unknown) => (error as { code: string }).code,
      ),
    quick,
  );
  expect(await refused).toBe('invalid_operation');
});

test.describe('over HTTP', () => {
  test.use({ serviceWorkers: 'allow' });

  test('the service worker asks the open tab about the engine and the checkpoints', async ({ page }) => {
    await openDoor(page, 'wasm');
    const answers = await page.evaluate(async (operation) => {
      const { serviceWorker } = navigator;
      await serviceWorker.register('/service.worker.js');
      if (!serviceWorker.controller) {
        await new Promise((taken) => serviceWorker.addEventListener('controllerchange', taken, { once: true }));
      }
      const headers = { 'Content-Type': 'application/json' };
      const ask = async (path: string, body?: object) => {
        const method = body === undefined ? 'GET' : 'POST';
        const response = await fetch(path, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) });
        return { status: response.status, body: (await response.json()) as Record<string, unknown> };
      };
      const engine = await ask('/v1/engine');
      const prepared = await ask('/v1/engine/prepare', operation);
      const freed = await ask('/v1/engine/unload', {});
      const checkpoints = await ask('/v1/checkpoints');
      const refused = await ask('/v1/checkpoints/look', { repo: 'model' });
      return { engine, prepared, freed, checkpoints, refused };
    }, BUILTIN);
    expect(answers.engine).toMatchObject({ status: 200, body: { device: { backend: 'wasm' }, prepared: null } });
    expect(answers.prepared).toMatchObject({ status: 200, body: { prepared: { checkpoint: 'builtin:scenes' } } });
    expect(answers.freed).toMatchObject({ status: 200, body: { prepared: null } });
    expect(answers.checkpoints.body.checkpoints).toMatchObject([
      { ref: 'builtin:scenes', state: 'builtin' },
      { ref: 'builtin:scenes-4-steps', state: 'builtin' },
      { ref: 'builtin:realesr-animevideov3', state: 'builtin' },
    ]);
    expect(answers.refused).toMatchObject({ status: 400, body: { error: { code: 'invalid_operation' } } });
  });
});
