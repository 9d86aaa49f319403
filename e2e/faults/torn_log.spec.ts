/**
 * A kill can leave a torn record at the end of one of the browser's logs; what the next session stores is gone at the start after that
 * (src/storage/torn_log.ts). Here the records are torn to order, between sessions that all end well. TEARS=all tries every place.
 */
import { cpSync, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from '@playwright/test';
import { HUB, TINY, TINY_REF, download, expectRight, test } from '../fixtures/library.ts';
import { QUIET_PAGE } from '../fixtures/recorder.ts';
import {
  LOGS,
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

for (const torn of Object.keys(LOGS) as Torn[]) {
  for (const isCured of [true, false]) {
    const outcome = isCured ? 'nothing is missing' : 'and without the cure something is, or this test proves nothing';
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
          return stored;
        });
        await session(profile, opening, async (page) => {
          const gone = await missing(page, [before, after]);
          if (isCured) {
            expect(gone).toEqual([]);
            if (isDownloaded) {
              await expectRight(page, TINY_REF);
            }
          } else {
            expect(gone).not.toEqual([]);
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
      const { lastRecord, boundaries } = places(log(), from);
      expect(boundaries.length).toBeGreaterThanOrEqual(17);
      expect(lastRecord.length).toBeGreaterThan(40);
      const some = [lastRecord[1], lastRecord[20], boundaries[4], boundaries[8], boundaries[11]];
      const chosen = ALL ? [...lastRecord, ...boundaries] : some;
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

/** What nobody misses, and goes over a block's end: the kill comes while it is stored. */
const SACRIFICE: Record<'recordings' | 'database', () => Promise<void>> = {
  recordings: async () => {
    const { storageBuckets } = navigator as unknown as {
      storageBuckets: { open(name: string): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }> };
    };
    const root = await (await storageBuckets.open('recordings')).getDirectory();
    for (let n = 0; n < 60; n++) {
      await root.getDirectoryHandle(`${n}`.padEnd(240, 's'), { create: true });
    }
    await root.getDirectoryHandle('the last record', { create: true });
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
          put(2, 'the last record', () => {
            request.result.close();
            done();
          }),
        );
      };
    }),
};
