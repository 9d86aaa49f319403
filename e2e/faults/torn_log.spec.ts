/**
 * A kill can leave a torn record at the end of one of the browser's logs, and what the next session stores is gone at the start after that
 * (src/storage/torn_log.ts). These tests tear the records on purpose, between sessions that all end cleanly. TEARS=all tries every place.
 */
import { cpSync, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type Page } from '@playwright/test';
import type { Door } from '../../src/jobs/door.ts';
import type { LostRun } from '../../src/recorder/recorder_api.ts';
import { HUB, TINY, TINY_REF, download, expectRight, test } from '../fixtures/library.ts';
import { quick } from '../fixtures/queue.ts';
import { QUIET_PAGE } from '../fixtures/recorder.ts';
import {
  cut,
  logOf,
  missing,
  places,
  session,
  store,
  tear,
  type Opening,
  type Stored,
  type Torn,
} from '../fixtures/torn_log.ts';

const ALL = process.env.TEARS === 'all';

for (const torn of ['recordings', 'files without buckets', 'database'] satisfies Torn[]) {
  for (const isCured of [true, false]) {
    const outcome = isCured
      ? 'nothing is missing'
      : 'without the cure something is, or this test proves nothing, and the person is told';
    test(`the log of ${torn} was torn, a session stored more, the browser was started anew: ${outcome}`, async ({
      hub,
      baseURL,
    }) => {
      hub.begin();
      const profile = await mkdtemp(join(tmpdir(), 'darkroom-torn-'));
      const hasBuckets = torn !== 'files without buckets';
      const isDownloaded = isCured && torn === 'database';
      const opening: Opening = { origin: baseURL ?? '', flags: hub.flags, isCured, hasBuckets };
      try {
        const before = await session(profile, opening, (page) => store(page, 'before'));
        tear(logOf(profile, torn));
        const after = await session(profile, opening, async (page) => {
          expect(await missing(page, [before])).toEqual([]);
          const stored = await store(page, 'after');
          if (isDownloaded) {
            expect((await download(page, HUB(TINY))).error).toBeNull();
          }
          expect(await missing(page, [before, stored])).toEqual([]);
          if (torn === 'database') {
            // Witnesses are written a moment after the data they witness.
            await expect.poll(() => inBucket(page, 'witness', 'library.json')).toContain(stored.licenses[0]);
            await expect.poll(() => inBucket(page, 'witness', 'queue.json')).toContain(stored.jobs[0]);
          }
          return stored;
        });
        await session(profile, opening, async (page) => {
          if (isCured) {
            expect(await missing(page, [before, after])).toEqual([]);
            expect(await lostRuns(page)).toEqual([]);
            if (isDownloaded) {
              await expectRight(page, TINY_REF);
            }
          } else if (torn === 'database') {
            await page.goto(QUIET_PAGE);
            // The first to open it gets an error; then it is a new one.
            await page.evaluate(() => indexedDB.databases().catch(() => []));
            expect(await page.evaluate(() => indexedDB.databases())).toEqual([]);
            // Whatever has a witness elsewhere comes back.
            expect(await missing(page, [before, after])).toEqual([]);
          } else {
            const { run } = after.files[0];
            expect(await missing(page, [before, after])).toEqual([`file ${run}/${after.files[0].filename}`]);
            expect(await lostRuns(page)).toMatchObject([{ run_id: run, name: 'after' }]);
          }
        });
      } finally {
        await rm(profile, { recursive: true, force: true, maxRetries: 5 });
      }
    });
  }
}

for (const torn of ['recordings', 'database'] as const) {
  test(`the log of ${torn} ends ${ALL ? 'at each' : 'at some'} place where a kill can end it: after two starts nothing is missing`, async ({
    hub,
    baseURL,
  }) => {
    test.setTimeout(ALL ? 4 * 3_600_000 : 600_000);
    const opening: Opening = { origin: baseURL ?? '', flags: hub.flags, isCured: true, hasBuckets: true };
    const original = await mkdtemp(join(tmpdir(), 'darkroom-torn-'));
    const copy = `${original}-copy`;
    try {
      const before = await session(original, opening, (page) => store(page, 'before'));
      const log = () => logOf(original, torn);
      const from = await session(original, opening, async (page) => {
        await page.goto(QUIET_PAGE);
        const length = statSync(log()).size;
        await page.evaluate(SACRIFICE[torn]);
        return length;
      });
      const { lastRecords, boundaries } = places(log(), from);
      expect(boundaries.length).toBeGreaterThanOrEqual(17);
      expect(lastRecords.length).toBeGreaterThanOrEqual(150);
      const some = [lastRecords[120], boundaries[4], boundaries[11]];
      const chosen = ALL ? [...lastRecords, ...boundaries] : some;
      for (const [n, at] of chosen.entries()) {
        await rm(copy, { recursive: true, force: true, maxRetries: 5 });
        cpSync(original, copy, { recursive: true, verbatimSymlinks: true });
        cut(logOf(copy, torn), at);
        const stored: Stored[] = [before];
        for (const name of ['first', 'second', null]) {
          await session(copy, opening, async (page) => {
            expect(await missing(page, stored), `the log ends at ${at}`).toEqual([]);
            stored.push(...(name === null ? [] : [await store(page, name)]));
          });
        }
        if (ALL && (n + 1) % 10 === 0) {
          console.log(`${n + 1} of ${chosen.length} places in the log of ${torn}: nothing is missing`);
        }
      }
    } finally {
      await rm(original, { recursive: true, force: true, maxRetries: 5 });
      await rm(copy, { recursive: true, force: true, maxRetries: 5 });
    }
  });
}

for (const isCured of [true, false]) {
  test(`the log of localStorage was torn: what is typed after the next start ${isCured ? 'stays' : 'is gone without the cure'}`, async ({
    hub,
    baseURL,
  }) => {
    const profile = await mkdtemp(join(tmpdir(), 'darkroom-torn-'));
    const opening: Opening = { origin: baseURL ?? '', flags: hub.flags, isCured, hasBuckets: true };
    const keep = (page: Page, name: string) =>
      page.evaluate((key) => localStorage.setItem(`darkroom.typed.${key}`, 'a lamp'), name);
    const kept = (page: Page) =>
      page.evaluate(() => ['before', 'after'].filter((name) => localStorage.getItem(`darkroom.typed.${name}`)));
    try {
      await session(profile, opening, async (page) => {
        await page.goto('/?backend=wasm');
        await page.waitForFunction(() => globalThis.darkroom !== undefined);
        await keep(page, 'before');
      });
      tear(logOf(profile, 'localStorage'));
      const { size } = statSync(logOf(profile, 'localStorage'));
      await session(profile, opening, async (page) => {
        await page.goto('/?backend=wasm');
        await page.waitForFunction(() => globalThis.darkroom !== undefined);
        if (isCured) {
          await expect.poll(() => statSync(logOf(profile, 'localStorage')).size).toBeGreaterThan(size + 32_768);
        }
        await keep(page, 'after');
        expect(await kept(page)).toEqual(['before', 'after']);
      });
      await session(profile, opening, async (page) => {
        await page.goto('/?backend=wasm');
        await page.waitForFunction(() => globalThis.darkroom !== undefined);
        expect(await kept(page)).toEqual(isCured ? ['before', 'after'] : ['before']);
      });
    } finally {
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    }
  });
}

test('an emptied database: the page says what is gone, and each thing comes back in one press', async ({
  context,
  hub,
  door,
}) => {
  expect((await download(door, HUB(TINY))).error).toBeNull();
  await door.evaluate(() => globalThis.darkroom?.pause(true));
  const id = await door.evaluate(
    (operation) => globalThis.darkroom?.submit(operation).then((job) => job.id),
    quick('a'),
  );
  // Witnesses are written a moment after the data they witness.
  await expect.poll(() => inBucket(door, 'witness', 'library.json')).toContain('"complete":true');
  await expect.poll(() => inBucket(door, 'witness', 'queue.json')).toContain(id);
  await door.goto(QUIET_PAGE);
  await door.evaluate(async () => {
    for (const name of ['darkroom-library', 'darkroom-jobs']) {
      await new Promise((done) => (indexedDB.deleteDatabase(name).onsuccess = done));
    }
  });
  await door.close();
  hub.begin();

  const page = await context.newPage();
  await page.goto('/?backend=wasm');
  await expect(page.getByRole('alert')).toContainText(
    'The browser had lost the queue, which can happen when it is killed; 1 job that waited is in it again.',
  );
  expect(
    await page.evaluate(async () => (await globalThis.darkroom?.list())?.map((job) => [job.id, job.state])),
  ).toEqual([[id, 'pending']]);
  await page.evaluate(() => (location.hash = 'library'));
  await expect(page.getByText('The browser has lost what was stored of it')).toBeVisible();
  await page.getByRole('button', { name: `Repair ${TINY}` }).click();
  await expect(page.getByRole('button', { name: `Verify ${TINY}` })).toBeVisible();
  await expectRight(page, TINY_REF);
});

test('recordings that are gone: the page says which, shows what is known of them, and makes one again in one press', async ({
  page,
}) => {
  await page.goto('/?backend=wasm');
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  const made = await page.evaluate(async (operation) => {
    const door = globalThis.darkroom as Door;
    const jobs = [await door.submit(operation), await door.submit(operation)];
    return Promise.all(jobs.map(({ id }) => door.wait(id)));
  }, quick('a lamp that goes out'));
  const picture = made[0].entities.find(({ type }) => type === 'output_image')?.sha256;
  expect(picture).toMatch(/^[0-9a-f]{64}$/);
  // The thumbnail is stored a moment after the run has ended.
  await expect.poll(() => inBucket(page, 'exports', 'runs.index')).toMatch(/data:image[^]*data:image/);
  await page.goto(QUIET_PAGE);
  await page.evaluate(async () => {
    const { storageBuckets } = navigator as unknown as {
      storageBuckets: { open(name: string): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }> };
    };
    const root = await (await storageBuckets.open('recordings')).getDirectory();
    const exports = await root.getDirectoryHandle('exports');
    await exports.removeEntry('json', { recursive: true });
  });

  await page.goto('/?backend=wasm');
  const alert = page.getByRole('alert');
  await expect(alert).toContainText('2 runs that you had recorded were lost by the browser');
  await alert.getByRole('button', { name: 'Look' }).click();
  const lost = page.getByRole('region', { name: 'Lost by the browser' });
  await expect(lost.getByRole('listitem')).toHaveCount(2);
  await expect(lost.getByRole('listitem').first()).toContainText('16 × 16 · 1 step · seed 7');
  await expect(lost.locator('img').first()).toHaveAttribute('src', /^data:image\/webp;base64,/);
  await lost.getByRole('button', { name: 'Make again' }).first().click();
  await expect(lost.getByRole('listitem')).toHaveCount(1);
  await lost.getByRole('button', { name: 'Dismiss' }).click();
  await expect(lost).toBeHidden();
  await expect
    .poll(async () => {
      const runs = await page.evaluate(() => (globalThis.darkroom as Door).runs({ limit: 9 }));
      return runs.flatMap(({ entities }) => entities).find(({ type }) => type === 'output_image')?.sha256;
    })
    .toBe(picture);
});

test('a bucket that cannot be opened: the page says that recordings are not shown, and takes none for lost', async ({
  page,
}) => {
  await page.goto('/?backend=wasm');
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  const keep = (name: string) =>
    page.evaluate(async (title) => {
      const canvas = new OffscreenCanvas(16, 16);
      canvas.getContext('2d')?.fillRect(4, 4, 8, 8);
      return (await (globalThis.darkroom as Door).recordings.keep(await canvas.convertToBlob(), title)).run;
    }, name);
  const first = await keep('in the bucket');
  await page.route('**/assets/recorder.worker-*.js', async (route) => {
    const response = await route.fetch();
    const refusal = `navigator.storageBuckets.open = () => Promise.reject(new DOMException('Broken.', 'UnknownError'));\n`;
    await route.fulfill({ response, body: refusal + (await response.text()) });
  });
  await page.reload();
  await expect(page.getByText('does not open the place where the recordings lie')).toBeVisible();
  const second = await keep('beside it');
  expect(await lostRuns(page)).toEqual([]);
  await page.unroute('**/assets/recorder.worker-*.js');
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  const found = await page.evaluate(() => (globalThis.darkroom as Door).recordings.find({ limit: 9 }));
  expect(found.map(({ run_id }) => run_id)).toEqual([second, first]);
  expect(await lostRuns(page)).toEqual([]);
});

function lostRuns(page: Page): Promise<LostRun[]> {
  return page.evaluate(() => (globalThis.darkroom as Door).recordings.lost());
}

/** The text of a file in the bucket; empty if there is none. */
function inBucket(page: Page, folder: string, name: string): Promise<string> {
  return page.evaluate(
    async ([where, what]) => {
      const { storageBuckets } = navigator as unknown as {
        storageBuckets: { open(name: string): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }> };
      };
      try {
        const root = await (await storageBuckets.open('recordings')).getDirectory();
        const handle = await (await root.getDirectoryHandle(where)).getFileHandle(what);
        return await (await handle.getFile()).text();
      } catch {
        return '';
      }
    },
    [folder, name] as const,
  );
}

/** Data that nobody misses and that crosses a block's end: the kill comes while it is being stored. */
const SACRIFICE: Record<'recordings' | 'database', () => Promise<void>> = {
  recordings: async () => {
    const { storageBuckets } = navigator as unknown as {
      storageBuckets: { open(name: string): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }> };
    };
    const root = await (await storageBuckets.open('recordings')).getDirectory();
    for (let n = 0; n < 60; n++) {
      await root.getDirectoryHandle(`${n}`.padEnd(240, 's'), { create: true });
    }
    await root.getDirectoryHandle('the last record'.padEnd(90, 's'), { create: true });
  },
  database: () =>
    new Promise<void>((done, failed) => {
      const request = indexedDB.open('sacrifice');
      request.onupgradeneeded = () => request.result.createObjectStore('store');
      request.onerror = () => failed(new Error(String(request.error)));
      request.onsuccess = () => {
        const put = (key: number, value: string, next: () => void) => {
          const transaction = request.result.transaction('store', 'readwrite');
          transaction.objectStore('store').put(value, key);
          transaction.oncomplete = next;
        };
        put(1, 's'.repeat(40_000), () =>
          put(2, 'the last record'.padEnd(120, 's'), () => {
            request.result.close();
            done();
          }),
        );
      };
    }),
};
