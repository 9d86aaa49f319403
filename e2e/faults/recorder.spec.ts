/** Recordings in a real browser: they outlast a reload, leftovers and missing storage, and a full disk loses nothing. */
import { createHash } from 'node:crypto';
import { expect, test, type Page } from '@playwright/test';
import type { Job } from '../../src/core/job.ts';
import type { Door } from '../../src/jobs/door.ts';

const OPERATION = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'a red circle', width: 64, height: 64, steps: 1, seed: '7' },
};

async function open(page: Page): Promise<void> {
  await page.goto('/?backend=wasm&door=cli');
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
}

/** Makes one picture and waits for the job's end. */
function generate(page: Page): Promise<Job> {
  return page.evaluate(async (operation) => {
    const door = globalThis.darkroom as Door;
    return door.wait(door.submit(operation).id);
  }, OPERATION);
}

function runs(page: Page) {
  return page.evaluate(() => (globalThis.darkroom as Door).runs({ limit: 9 }));
}

async function sha256(page: Page, run: string, filename: string): Promise<string> {
  const bytes = await page.evaluate(
    async ([id, name]) => {
      const blob = await (globalThis.darkroom as Door).entity(id, name);
      return [...new Uint8Array(await blob.arrayBuffer())];
    },
    [run, filename] as const,
  );
  return createHash('sha256').update(Uint8Array.from(bytes)).digest('hex');
}

/** The folder of a run, from the page's side of the same storage. */
async function inRunFolder(page: Page, run: string, files: Record<string, string | null>): Promise<void> {
  await page.evaluate(
    async ([id, changes]) => {
      let folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('exports');
      folder = await folder.getDirectoryHandle('json');
      while (folder.name !== id) {
        for await (const entry of folder.values()) {
          folder = entry as FileSystemDirectoryHandle;
          break;
        }
      }
      for (const [name, content] of Object.entries(changes)) {
        if (content === null) {
          await folder.removeEntry(name);
        } else {
          const stream = await (await folder.getFileHandle(name, { create: true })).createWritable();
          await stream.write(content);
          await stream.close();
        }
      }
    },
    [run, files] as const,
  );
}

test('recordings outlast a reload, byte for byte', async ({ page }) => {
  await open(page);
  const job = await generate(page);
  expect(job.error).toBeNull();
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  const [record] = await runs(page);
  expect(record).toMatchObject({
    run_id: job.run,
    current_state: { stage: 'completed' },
    config_name: 'stable_diffusion',
  });
  expect(record?.entities.map((entity) => ({ run: job.run, ...entity }))).toEqual(job.entities);
  for (const { filename, sha256: expected } of job.entities) {
    expect(await sha256(page, job.run ?? '', filename)).toBe(expected);
  }
  expect(job.entities.map(({ type }) => type)).toContain('output_image');
});

test('what a killed tab leaves behind is passed over, and a torn metadata.json is rebuilt', async ({ page }) => {
  await open(page);
  const { run, entities } = await generate(page);
  const filenames = entities.map(({ filename }) => filename);
  const leftovers = { '09_output_image.png.part': 'torn', 'metadata.json.part': '{', '09_output_image.png.crswap': '' };
  await inRunFolder(page, run ?? '', leftovers);
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  expect((await runs(page))[0]?.entities.map(({ filename }) => filename)).toEqual(filenames);

  await inRunFolder(page, run ?? '', { 'metadata.json': '{"schema_version": 1, "run' });
  const [rebuilt] = await runs(page);
  expect(rebuilt).toMatchObject({ run_id: run, operation: null });
  expect(rebuilt?.entities.map(({ filename }) => filename)).toEqual(filenames);
});

test('without storage, recordings last for the visit and the page says so', async ({ page }) => {
  await page.route('**/assets/recorder.worker-*.js', async (route) => {
    const response = await route.fetch();
    const refusal = `navigator.storage.getDirectory = () => Promise.reject(new DOMException('Denied.', 'SecurityError'));\n`;
    await route.fulfill({ response, body: refusal + (await response.text()) });
  });
  await page.goto('/?backend=wasm');
  await expect(page.getByText('recordings last only for this visit')).toBeVisible();
  const job = await generate(page);
  expect(job).toMatchObject({ state: 'completed', error: null });
  expect(await runs(page)).toHaveLength(1);
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  expect(await runs(page)).toEqual([]);
});

test('a full disk fails the job with one sentence, and earlier runs stay whole', async ({ page }) => {
  await open(page);
  const first = await generate(page);
  const devtools = await page.context().newCDPSession(page);
  const origin = new URL(page.url()).origin;
  await devtools.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 1 });
  const second = await generate(page);
  expect(second).toMatchObject({ state: 'failed', error: { code: 'storage_full', retry: 'same' } });
  expect(second.error?.message).toContain('no room left');

  await devtools.send('Storage.overrideQuotaForOrigin', { origin });
  for (const { filename, sha256: expected } of first.entities) {
    expect(await sha256(page, first.run ?? '', filename)).toBe(expected);
  }
  expect(await generate(page)).toMatchObject({ state: 'completed' });
});
