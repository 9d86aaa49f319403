/** Several tabs and one queue: tabs close, crash, hang, are outdated, lose their turn or reload; every job is done once and none is lost. */
import { readFileSync } from 'node:fs';
import { expect, test } from '@playwright/test';
import { quick, Tab } from '../fixtures/queue.ts';
import { QUIET_PAGE, openRecorders, recorderScript } from '../fixtures/recorder.ts';

/** Milliseconds that may pass between one owner's end and the next one's first work. */
const HAND_OVER_MS = 2000;

/** Long enough to act in the middle of it, short enough to wait for. */
const LONG = quick('a long one', { steps: 150, sampler: 'euler', width: 32, height: 32 });

/** Long enough to be handed over and taken back by hand. */
const LONGER = { ...LONG, parameters: { ...LONG.parameters, width: 128, height: 128 } };

/** The result of an undisturbed run, byte for byte. */
let undisturbed: string;

test.beforeAll(async ({ browser, baseURL }) => {
  const context = await browser.newContext({ baseURL });
  const tab = await Tab.open(context);
  const [job] = await tab.wait(await tab.submit(LONG));
  undisturbed = tab.picture(job);
  await context.close();
});

test('two submitters: every job of both is done, once, in the order of each', async ({ context }) => {
  const tabs = [await Tab.open(context), await Tab.open(context)];
  const ids = await Promise.all(
    tabs.map((tab, n) => tab.submit(...Array.from({ length: 4 }, (_, i) => quick(`${n} ${i}`)))),
  );
  const ended = await tabs[1].wait(ids.flat());
  expect(ended.map(({ state, attempts, error }) => [state, attempts, error])).toEqual(
    ids.flat().map(() => ['completed', 1, null]),
  );
  expect(new Set(ended.map(({ run }) => run)).size).toBe(8);
  const order = ended.toSorted((a, b) => (a.startedAt ?? 0) - (b.startedAt ?? 0)).map(({ id }) => id);
  for (const own of ids) {
    expect(order.filter((id) => own.includes(id))).toEqual(own);
  }
  expect([await tabs[0].queue(), await tabs[1].queue()]).toMatchObject([{ runs: 'here' }, { runs: 'elsewhere' }]);
});

for (const [name, end] of Object.entries({
  'the owner closes': async (owner: Tab) => owner.page.close(),
  'the owner crashes': async (owner: Tab) => {
    const session = await owner.page.context().newCDPSession(owner.page);
    // Never answers: its owner is gone.
    void session.send('Page.crash').catch(() => undefined);
    await owner.page.waitForEvent('crash');
  },
})) {
  test(`${name} in the middle of a job: the next tab goes on with it, in the same run, with the identical picture`, async ({
    context,
  }) => {
    const [owner, heir] = [await Tab.open(context), await Tab.open(context)];
    const [id, waiting] = await heir.submit(LONG, quick('behind it'));
    await heir.step(id, 5);
    const { run } = (await heir.job(id))!;
    await end(owner);
    const handOver = await heir.owns();
    console.log(`${name}: the next tab has the GPU after ${handOver} ms`);
    expect(handOver).toBeLessThanOrEqual(HAND_OVER_MS);
    const [job, next] = await heir.wait([id, waiting]);
    expect(job).toMatchObject({ state: 'completed', attempts: 2, run, error: null });
    expect(heir.picture(job)).toBe(undisturbed);
    expect(next).toMatchObject({ state: 'completed', attempts: 1 });
  });
}

test('take-over, on the page and by a press: the owner stops, the job goes on here, and back again', async ({
  context,
}) => {
  const owner = await Tab.open(context);
  const [id] = await owner.submit(LONGER);
  await owner.step(id, 3);
  const other = await Tab.open(context, '?backend=wasm');
  await expect(other.page.getByText('Another tab makes the pictures.')).toBeVisible();
  await other.page.getByRole('button', { name: 'Make them here' }).click();
  await expect(other.page.getByText('Another tab makes the pictures.')).toBeHidden();
  await expect.poll(async () => (await other.job(id))?.attempts).toBe(2);
  expect(await owner.queue()).toMatchObject({ runs: 'elsewhere' });
  await owner.page.evaluate(() => globalThis.darkroom!.takeOver());
  const [job] = await other.wait([id]);
  expect(job).toMatchObject({ state: 'completed', attempts: 3, error: null });
  const [again] = await owner.wait(await owner.submit(LONGER));
  expect(owner.picture(job)).toBe(owner.picture(again));
  expect(await owner.queue()).toMatchObject({ runs: 'here' });
});

test('the owner hangs: whoever takes over does not wait for it, and what it says later is not believed', async ({
  context,
}) => {
  const [owner, other] = [await Tab.open(context), await Tab.open(context)];
  const [id] = await other.submit(LONG);
  await other.step(id, 3);
  const hung = owner.page
    .evaluate(() => {
      const until = Date.now() + 8000;
      while (Date.now() < until) {
        // A page that does not respond while the other takes over.
      }
    })
    .catch(() => undefined);
  await other.page.evaluate(() => globalThis.darkroom!.takeOver());
  expect(await other.owns()).toBeLessThanOrEqual(HAND_OVER_MS);
  const [job] = await other.wait([id]);
  expect(job).toMatchObject({ state: 'completed', attempts: 2, error: null });
  await hung;
  expect(await owner.queue()).toMatchObject({ runs: 'elsewhere' });
  expect(await other.job(id)).toEqual(job);
  expect((await other.jobs()).length).toBe(1);
});

test('records of an older version: what it ran on is gone, which is said, and with the default checkpoint they are done', async ({
  context,
}) => {
  const page = await context.newPage();
  await page.goto(QUIET_PAGE);
  const old = JSON.parse(readFileSync('test/jobs/schema_1.json', 'utf8')) as Record<string, unknown>;
  await page.evaluate(
    (records) =>
      new Promise<void>((written, failed) => {
        const request = indexedDB.open('darkroom-jobs');
        request.onupgradeneeded = () => request.result.createObjectStore('jobs');
        request.onsuccess = () => {
          const transaction = request.result.transaction('jobs', 'readwrite');
          Object.entries(records).forEach(([key, value]) => transaction.objectStore('jobs').put(value, key));
          transaction.onerror = () => failed(new Error('not written'));
          transaction.oncomplete = () => {
            request.result.close();
            written();
          };
        };
      }),
    old,
  );
  const tab = new Tab(page);
  await tab.load();
  const ended = await tab.wait(['waiting', 'running']);
  expect(ended.map(({ state, attempts }) => [state, attempts])).toEqual([
    ['failed', 1],
    ['failed', 2],
  ]);
  for (const { error } of ended) {
    expect(error?.message).toContain('"builtin:shapes" does not come with this version');
  }
  const offered = ended.flatMap(({ offer }) => (offer ? [offer.operation] : []));
  const done = await tab.wait(await tab.submit(...offered));
  expect(done.map(({ state }) => state)).toEqual(['completed', 'completed']);
});

test('a reload storm of five tabs: every job is done, once', async ({ context }) => {
  const tabs = await Promise.all(Array.from({ length: 5 }, () => Tab.open(context)));
  const ids = (
    await Promise.all(tabs.map((tab, n) => tab.submit(quick(`${n} a`, { steps: 10 }), quick(`${n} b`))))
  ).flat();
  for (let storm = 0; storm < 3; storm++) {
    await Promise.all(tabs.map((tab) => tab.load()));
  }
  const ended = await tabs[3].wait(ids);
  expect(ended.map(({ state, error }) => [state, error])).toEqual(ids.map(() => ['completed', null]));
  for (const job of ended) {
    expect(job.entities.filter(({ type }) => type === 'output_image')).toHaveLength(1);
  }
  expect(await tabs[0].jobs()).toHaveLength(ids.length);
  const states = await Promise.all(tabs.map((tab) => tab.queue()));
  expect(states.filter(({ runs }) => runs === 'here')).toHaveLength(1);
});

test('two recorders write at once: both runs are whole, for both', async ({ context, request }) => {
  const script = await recorderScript(request);
  const pages = [await context.newPage(), await context.newPage()];
  await Promise.all(pages.map((page) => openRecorders(page, script)));
  const runs = await Promise.all(
    pages.map((page, n) =>
      page.evaluate(async (n) => {
        const recorder = globalThis.newRecorder();
        const run = await recorder.openRun({
          config_name: 'stable_diffusion',
          operation: {
            operation: 'image_generation',
            config: 'stable_diffusion',
            parameters: {},
            priority: 'normal',
            checkpoint: null,
            record: [],
          },
          expected_outputs: [],
        });
        for (let i = 0; i < 20; i++) {
          await recorder.saveEntity(run, 'note', `${n} ${i}`, { i });
        }
        await recorder.closeRun(run, 'completed');
        return run;
      }, n),
    ),
  );
  expect(runs[0]).not.toBe(runs[1]);
  for (const page of pages) {
    const found = await page.evaluate(async (runs) => {
      const recorder = globalThis.newRecorder();
      const texts = [];
      for (const run of runs) {
        const { entities, current_state, lost } = await recorder.readRun(run);
        const contents = [];
        for (const { filename } of entities) {
          contents.push(await (await recorder.readEntity(run, filename)).text());
        }
        texts.push({ contents, stage: current_state.stage, lost: lost ?? [] });
      }
      return { texts, listed: (await recorder.findRuns({ limit: 9 })).length };
    }, runs);
    expect(found.listed).toBe(2);
    expect(found.texts).toEqual(
      [0, 1].map((n) => ({
        contents: Array.from({ length: 20 }, (_, i) => `${n} ${i}`),
        stage: 'completed',
        lost: [],
      })),
    );
  }
});
