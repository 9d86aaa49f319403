/**
 * Downloads on a bad day, in a real browser with the page's real policy and host names, against a local hub that misbehaves on purpose.
 * After each: at most one piece is fetched twice, the model is correct or refused, and nothing else is lost.
 */
import { join } from 'node:path';
import type { Door } from '../../src/jobs/door.ts';
import type { Origin, StoredCheckpoint } from '../../src/weights/library/library_api.ts';
import { CHECKPOINTS } from '../fixtures/door.ts';
import { COMMIT, filesOf, type Asked, type Fault } from '../fixtures/hub.ts';
import {
  HUB,
  LARGE,
  PIECE,
  REF,
  TINY,
  TINY_REF,
  UNET,
  crash,
  download,
  expectRefused,
  expectRight,
  expectRuns,
  expectSentence,
  largeOf,
  list,
  openPage,
  sizeOf,
  test,
} from '../fixtures/library.ts';
import { expect } from '@playwright/test';

const isUnet = ({ path }: Asked) => path === UNET;
/** The n-th request for the large file; each piece takes four. */
const once =
  (n: number, work: (asked: Asked) => Promise<unknown> | void): Fault =>
  async (asked) => {
    if (!isUnet(asked) || asked.count !== n) {
      return false;
    }
    await work(asked);
    return true;
  };

for (const [name, at] of [
  ['byte 0', () => 0],
  ['byte 1', () => 1],
  ['the middle', (length: number) => length / 2],
  ['the last byte', (length: number) => length - 1],
  ['the border of a piece', (length: number) => length],
] as [string, (length: number) => number][]) {
  test(`a connection cut at ${name}`, async ({ door, hub }) => {
    // The last range of the second piece.
    hub.fault = once(7, (asked) => hub.sendRange(asked, at(asked.end - asked.begin)));
    expect(await download(door, HUB(LARGE))).toMatchObject({ stored: { state: 'complete' }, error: null });
    expect(hub.asked).toBeLessThanOrEqual(sizeOf(largeOf(hub)) + PIECE);
    await expectRight(door, REF);
  });
}

test('200 in answer to a range', async ({ door, hub }) => {
  hub.fault = once(5, ({ response, content }) => {
    response.writeHead(200, { ETag: '"v1"', 'Content-Length': content.length });
    return hub.send(response, content);
  });
  expect(await download(door, HUB(LARGE))).toMatchObject({ stored: { state: 'complete' } });
  await expectRight(door, REF);
  // What was in flight of that piece, plus what a cancelled response had left in the pipes.
  expect(hub.sent).toBeLessThanOrEqual(sizeOf(largeOf(hub)) + 2 * PIECE);
});

test('a host without ranges', async ({ door, hub }) => {
  hub.fault = async (asked) => {
    if (!isUnet(asked)) {
      return false;
    }
    asked.response.writeHead(200, { 'Content-Length': asked.content.length });
    await hub.send(asked.response, asked.content, asked.count === 2 ? 20 * 2 ** 20 : Infinity);
    return true;
  };
  expect(await download(door, HUB(LARGE))).toMatchObject({ stored: { state: 'complete' } });
  await expectRight(door, REF);
});

test('416', async ({ door, hub }) => {
  hub.fault = once(6, ({ response, content }) => {
    response.writeHead(416, { 'Content-Range': `bytes */${content.length}` }).end();
  });
  expect(await download(door, HUB(LARGE))).toMatchObject({ stored: { state: 'complete' } });
  await expectRight(door, REF);
});

test('an ETag that changes: that file begins again, and one that keeps changing is given up', async ({
  door,
  context,
  hub,
}) => {
  hub.fault = once(6, (asked) => hub.sendRange(asked, Infinity, 'v2'));
  expect(await download(door, HUB(LARGE))).toMatchObject({ stored: { state: 'complete' } });
  await expectRight(door, REF);
  await door.evaluate((ref) => (globalThis.darkroom as Door).library.remove(ref), REF);
  hub.recount();
  hub.fault = async (asked) => {
    if (!isUnet(asked)) {
      return false;
    }
    await hub.sendRange(asked, Infinity, `v${asked.count}`);
    return true;
  };
  expectSentence(await download(door, HUB(LARGE)), 'checkpoint_damaged', /keeps changing/);
  await expectRefused(context, REF);
});

test('a size that changes is refused at a pinned commit, and taken anew from an address', async ({ door, hub }) => {
  const files = new Map(largeOf(hub));
  const grown = filesOf(join(CHECKPOINTS, 'tiny-turbo'));
  hub.fault = once(6, ({ response, content }) => {
    response.writeHead(206, { 'Content-Range': `bytes 0-1/${content.length + 4}`, 'Content-Length': 2 }).end('xx');
  });
  expectSentence(await download(door, HUB(LARGE)), 'checkpoint_damaged', /not the file that was listed/);
  hub.begin();
  expect(await download(door, REF)).toMatchObject({ stored: { state: 'complete' }, error: null });
  await expectRight(door, REF);

  // A file changes at the same address while it is being fetched.
  hub.begin();
  hub.fault = once(6, ({ response }) => {
    hub.repositories.set(LARGE, { files: new Map([...files, [UNET, grown.get(UNET) as Buffer]]) });
    hub.etag = 'v2';
    response.destroy();
  });
  const origin: Origin = { kind: 'url', url: `https://files.hf.co/${LARGE}/` };
  const { stored, error } = await download(door, origin);
  hub.repositories.set(LARGE, { files });
  expect(error).toBeNull();
  expect(stored).toMatchObject({ state: 'complete', bytes: sizeOf(grown) });
  await expectRight(door, stored?.ref ?? '');
});

test('one flipped byte', async ({ door, context, hub }) => {
  const flip: Fault = async (asked) => {
    const at = 2_000_000;
    if (!isUnet(asked) || asked.begin > at || asked.end <= at) {
      return false;
    }
    const wrong = Buffer.from(asked.content);
    wrong[at] ^= 1;
    await hub.sendRange({ ...asked, content: wrong });
    return true;
  };
  hub.fault = flip;
  expectSentence(await download(door, HUB(TINY)), 'checkpoint_damaged', /wrong bytes/);
  await expectRefused(context, TINY_REF);
  const [paused] = await list(door);
  hub.begin();
  expect(await download(door, TINY_REF)).toMatchObject({ stored: { state: 'complete' } });
  // That file has one piece, and the others are kept.
  expect(hub.asked).toBe(paused.bytes - paused.storedBytes);
  expect(hub.asked).toBeLessThan(PIECE);
  await expectRight(door, TINY_REF);
  await expectRuns(context, TINY_REF);

  // If it happens once, the download recovers by itself.
  hub.fault = async (asked) => asked.count < 4 && (await flip(asked));
  expect(await download(door, HUB(LARGE))).toMatchObject({ stored: { state: 'complete' } });
  await expectRight(door, REF);
});

test('one flipped byte in a small file, which has no hash of its own', async ({ door, hub }) => {
  hub.fault = async (asked) => {
    if (asked.path !== 'tokenizer/tokenizer.json') {
      return false;
    }
    const wrong = Buffer.from(asked.content);
    wrong[wrong.indexOf('"vocab"') + 1] ^= 1;
    await hub.sendRange({ ...asked, content: wrong });
    return true;
  };
  expectSentence(await download(door, HUB(TINY)), 'checkpoint_damaged', /tokenizer\.json .*wrong bytes/);
  hub.begin();
  expect(await download(door, TINY_REF)).toMatchObject({ stored: { state: 'complete' } });
});

test('a redirect to a foreign host is refused by the policy, and told as what it is', async ({ door, hub }) => {
  hub.cdn = 'evil.example';
  const refused = await download(door, HUB(LARGE));
  expectSentence(refused, 'origin_unavailable', /huggingface\.co sends .* on to another host/);
  hub.begin();
  expect(await download(door, REF)).toMatchObject({ stored: { state: 'complete' } });
  await expectRight(door, REF);
  const direct = await download(door, { kind: 'url', url: 'https://evil.example/someone/large/' });
  expectSentence(direct, 'origin_unavailable', /may not speak to evil\.example/);
});

test('no network in the middle', async ({ door, context, hub }) => {
  const hold = hub.holdAfter(24 * 2 ** 20);
  const downloading = download(door, HUB(LARGE));
  await hold.reached;
  await context.setOffline(true);
  hold.go();
  expectSentence(await downloading, 'origin_unavailable', /no connection.*kept/);
  const [paused] = await list(door);
  expect(paused).toMatchObject({ state: 'paused', error: { code: 'origin_unavailable', retry: 'same' } });
  expect(paused.storedBytes).toBeGreaterThan(PIECE);
  await context.setOffline(false);
  hub.begin();
  expect(await download(door, REF)).toMatchObject({ stored: { state: 'complete', error: null } });
  expect(hub.asked).toBe(paused.bytes - paused.storedBytes);
  await expectRight(door, REF);
});

test('429 with Retry-After', async ({ door, hub }) => {
  hub.fault = once(4, ({ response }) => {
    response.writeHead(429, { 'Retry-After': '1' }).end();
  });
  expect(await download(door, HUB(LARGE))).toMatchObject({ stored: { state: 'complete' } });
  expect(hub.asked).toBeLessThanOrEqual(sizeOf(largeOf(hub)) + PIECE);
  await expectRight(door, REF);
});

test('a slow drip', async ({ door, hub }) => {
  hub.fault = async (asked) => {
    const { path, response, content } = asked;
    if (path !== 'tokenizer/tokenizer.json') {
      return false;
    }
    response.writeHead(206, { 'Content-Range': `bytes 0-${content.length - 1}/${content.length}` });
    await hub.send(response, content, Infinity, 97);
    return true;
  };
  expect(await download(door, HUB(TINY))).toMatchObject({ stored: { state: 'complete' } });
  await expectRight(door, TINY_REF);
});

test('two tabs fetch once, and when the first dies the second goes on', async ({ door, context, hub }) => {
  const other = await openPage(context);
  const both = await Promise.all([download(door, HUB(LARGE)), download(other, HUB(LARGE))]);
  expect(both.map(({ stored }) => stored?.state)).toEqual(['complete', 'complete']);
  expect(hub.asked).toBe(sizeOf(largeOf(hub)));
  await other.evaluate((ref) => (globalThis.darkroom as Door).library.remove(ref), REF);
  expect(await list(door)).toEqual([]);

  hub.begin();
  const hold = hub.holdAfter(24 * 2 ** 20);
  void download(door, HUB(LARGE)).catch(() => undefined);
  await hold.reached;
  expect(await list(other)).toMatchObject([{ state: 'downloading' }]);
  const going = download(other, HUB(LARGE));
  await crash(door);
  hold.go();
  expect(await going).toMatchObject({ stored: { state: 'complete' } });
  expect(hub.asked).toBeLessThanOrEqual(sizeOf(largeOf(hub)) + PIECE);
  await expectRight(other, REF);
});

test('a pause from another tab', async ({ door, context, hub }) => {
  const other = await openPage(context);
  const hold = hub.holdAfter(24 * 2 ** 20);
  const going = download(door, HUB(LARGE));
  await hold.reached;
  await other.evaluate((ref) => (globalThis.darkroom as Door).library.pause(ref), REF);
  hold.go();
  expect((await going).error).toMatchObject({ code: 'cancelled' });
  const [paused] = await list(other);
  expect(paused).toMatchObject({ state: 'paused', error: null });
  hub.begin();
  expect(await download(other, REF)).toMatchObject({ stored: { state: 'complete' } });
  expect(hub.asked).toBe(paused.bytes - paused.storedBytes);
});

test('a full disk at every write', async ({ door, context, hub }) => {
  const devtools = await context.newCDPSession(door);
  const origin = new URL(door.url()).origin;
  // Set before the first use, then only raised: Chromium caches the free space it last found for half a minute.
  await devtools.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 8 * 2 ** 20 });
  expect(await download(door, HUB(TINY))).toMatchObject({ stored: { state: 'complete' } });
  const total = sizeOf(largeOf(hub));
  hub.begin();
  let fails = 0;
  let last: StoredCheckpoint | undefined;
  for (let room = 8 * 2 ** 20; ; room += 8 * 2 ** 20) {
    expect(room).toBeLessThan(4 * total);
    await devtools.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: room });
    const outcome = await download(door, last ? REF : HUB(LARGE));
    const mine = (await list(door)).find(({ ref }) => ref === REF);
    if (outcome.stored) {
      expect(outcome.stored.state).toBe('complete');
      break;
    }
    fails++;
    expectSentence(outcome, 'storage_full', /no room left/);
    expect(mine?.state ?? 'paused').toBe('paused');
    expect(mine?.storedBytes ?? 0).toBeGreaterThanOrEqual(last?.storedBytes ?? 0);
    last = mine;
  }
  expect(fails).toBeGreaterThan(2);
  // Each failed write had already fetched the piece that it could not store.
  expect(hub.asked).toBeLessThanOrEqual(total + fails * PIECE);
  await expectRight(door, REF);
  await expectRight(door, TINY_REF);
});

test('a tab killed at 20 random moments', async ({ door, context, hub }) => {
  await download(door, HUB(TINY));
  hub.begin();
  const total = sizeOf(largeOf(hub));
  let state = 20261121;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  let page = door;
  for (let kill = 0; kill < 20; kill++) {
    const [before] = (await list(page)).filter(({ ref }) => ref === REF);
    if (before?.state === 'complete') {
      await page.evaluate((ref) => (globalThis.darkroom as Door).library.remove(ref), REF);
    } else if (before) {
      expect(before.state).toBe('paused');
    }
    const left = before && before.state !== 'complete' ? before.bytes - before.storedBytes : total;
    hub.recount();
    const hold = hub.holdAfter(Math.floor(random() * Math.min(left, 1.5 * PIECE)));
    const going = download(page, HUB(LARGE)).catch(() => undefined);
    await Promise.race([hold.reached, going]);
    // In half of the kills bytes were still arriving.
    if (random() < 0.5) {
      hold.go();
    }
    await crash(page);
    hold.go();
    expect(hub.asked).toBeLessThanOrEqual(left + PIECE);
    await page.close();
    page = await openPage(context);
  }
  const [paused] = (await list(page)).filter(({ ref }) => ref === REF);
  hub.recount();
  const { stored } = await download(page, paused?.state === 'paused' ? REF : HUB(LARGE));
  expect(stored).toMatchObject({ state: 'complete' });
  if (paused?.state === 'paused') {
    // A kill in the middle of a write may have torn the last piece.
    expect(hub.asked).toBeGreaterThanOrEqual(paused.bytes - paused.storedBytes);
    expect(hub.asked).toBeLessThanOrEqual(paused.bytes - paused.storedBytes + PIECE);
  }
  await expectRight(page, REF);
  await expectRight(page, TINY_REF);
});

test('a store that an older version wrote', async ({ door, context, hub }) => {
  await download(door, HUB(TINY));
  await download(door, HUB(LARGE));
  await door.evaluate(
    (ref) =>
      new Promise<void>((done, failed) => {
        const open = indexedDB.open('darkroom-library');
        open.onsuccess = () => {
          const transaction = open.result.transaction('library', 'readwrite');
          const store = transaction.objectStore('library');
          store.put({ name: 'Old', paths: ['model_index.json'], ready: true }, `checkpoint/${ref}`);
          store.put({ bytes: 3 }, `file/${ref}/model_index.json`);
          store.put('nonsense', 'checkpoint/hub:gone/away@0');
          transaction.oncomplete = () => done();
          transaction.onabort = () => failed(new Error('The store was not written.'));
        };
      }),
    REF,
  );
  const page = await openPage(context);
  const listed = await list(page);
  expect(listed.find(({ ref }) => ref === TINY_REF)).toMatchObject({ state: 'complete' });
  expect(listed.find(({ ref }) => ref === REF)).toMatchObject({ state: 'damaged', name: 'Old' });
  await expectRefused(context, REF);
  hub.begin();
  expect(await download(page, HUB(LARGE))).toMatchObject({ stored: { state: 'complete' } });
  // The intact part is kept.
  expect(hub.asked).toBe(largeOf(hub).get('model_index.json')?.length);
  await expectRight(page, REF);
  await page.evaluate(() => (globalThis.darkroom as Door).library.remove('hub:gone/away@0'));
  expect(await list(page)).toHaveLength(2);
});

test('what is asked for wrongly is refused in one sentence each', async ({ door, hub }) => {
  const tiny = filesOf(join(CHECKPOINTS, 'tiny-turbo'));
  hub.repositories.set('someone/pickles', { files: new Map([['unet/diffusion_pytorch_model.bin', Buffer.alloc(9)]]) });
  hub.repositories.set('someone/nothing', { files: new Map([['README.md', Buffer.from('Hello.')]]) });
  hub.repositories.set('someone/gated', { files: tiny, gated: 'manual' });
  expectSentence(await download(door, HUB('tiny')), 'invalid_operation', /org\/name/);
  expectSentence(await download(door, HUB('someone/wrong')), 'origin_unavailable', /no public repository/);
  expectSentence(await download(door, { ...HUB(TINY), revision: 'v7' } as Origin), 'origin_unavailable', /no revision/);
  expectSentence(await download(door, HUB('someone/pickles')), 'checkpoint_unsupported', /pickle/);
  expectSentence(await download(door, HUB('someone/nothing')), 'checkpoint_incomplete', /no weights/);
  expectSentence(await download(door, HUB('someone/gated')), 'origin_unavailable', /accept .* then give a token/);
  expectSentence(
    await download(door, `hub:someone/gated@${COMMIT}`),
    'origin_unavailable',
    /accept .* then give a token/,
  );
  expect(await download(door, HUB('someone/gated'), 'full', 'hf_right')).toMatchObject({
    stored: { state: 'complete' },
  });

  hub.fault = (asked) => {
    if (isUnet(asked)) {
      asked.response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>Sign in</title>');
    }
    return isUnet(asked);
  };
  expectSentence(await download(door, HUB(TINY)), 'origin_unavailable', /web page/);
});

test('a window without storage says so', async ({ door, context }) => {
  const listing = await door.evaluate((origin) => (globalThis.darkroom as Door).library.look(origin, null), HUB(TINY));
  await context.route(/library\.worker.*\.js$/, async (route) => {
    const response = await route.fetch();
    const refusal = `IDBFactory.prototype.open = () => { throw new DOMException('Denied.', 'SecurityError'); };\n`;
    await route.fulfill({ response, body: refusal + (await response.text()) });
  });
  const page = await openPage(context);
  const error = await page.evaluate(async (given) => {
    const request = { listing: given, paths: ['model_index.json'], variant: 'full' as const, token: null };
    try {
      await (globalThis.darkroom as Door).library.download(request, () => undefined);
      return null;
    } catch (thrown) {
      const { code, message, retry } = thrown as { code: string; message: string; retry: string };
      return { code, message, retry };
    }
  }, listing);
  expectSentence({ stored: null, error, progress: null }, 'storage_unavailable', /private window/);
});
