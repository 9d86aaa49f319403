/** The queue as people use it: it survives reloads and the browser's death, and stays quick when long. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, expect, test, type Locator, type Page } from '@playwright/test';
import { quick, Tab } from '../fixtures/queue.ts';

/** Stays in the queue until somebody opens the folder. */
const HELD = { ...quick('held'), checkpoint: 'folder:closed' };

/** Long enough to inspect what waits behind it. */
const LONG = quick('a long one', { steps: 150 });

class Line {
  readonly region: Locator;
  readonly rows: Locator;

  constructor(readonly page: Page) {
    this.region = page.getByRole('region', { name: /^Queue/ });
    this.rows = page.getByRole('list', { name: 'Waiting in line' }).getByRole('listitem');
  }

  button(name: string | RegExp): Locator {
    return this.region.getByRole('button', { name });
  }

  async words(): Promise<string[]> {
    return (await this.rows.locator('.words').allTextContents()).map((text) => text.trim());
  }
}

test('a reload in the middle: the running job goes on, the waiting ones run, in their order', async ({ context }) => {
  const tab = await Tab.open(context);
  const ids = await tab.submit(LONG, quick('b'), quick('c'));
  await tab.step(ids[0], 3);
  await tab.load();
  const jobs = await tab.wait(ids);
  expect(jobs.map(({ state, attempts }) => [state, attempts])).toEqual([
    ['completed', 2],
    ['completed', 1],
    ['completed', 1],
  ]);
  expect((jobs[1].startedAt ?? 0) <= (jobs[2].startedAt ?? 0)).toBe(true);
});

test('SIGKILL of the browser: jobs and their pictures are still there when it opens again, and are done', async ({
  baseURL,
}, info) => {
  const profile = await mkdtemp(join(tmpdir(), 'darkroom-queue-'));
  const { launchOptions: launch } = info.project.use;
  // A pipe would close with the browser; its process is found by the profile, which nobody else uses.
  const open = () => chromium.launchPersistentContext(profile, { ...launch, ...(baseURL ? { baseURL } : {}) });
  try {
    const first = await open();
    const tab = await Tab.open(first);
    const [running] = await tab.submit(LONG);
    const waiting = await tab.page.evaluate(async (operation) => {
      const canvas = new OffscreenCanvas(16, 16);
      canvas.getContext('2d')?.fillRect(0, 0, 16, 16);
      const image = await canvas.convertToBlob();
      const given = {
        ...operation,
        operation: 'image_transform',
        parameters: { ...operation.parameters, image, strength: 1 },
      };
      return (await globalThis.darkroom!.submit(given)).id;
    }, quick('from a picture'));
    await tab.step(running, 3);
    const session = await first.browser()!.newBrowserCDPSession();
    const { processInfo } = await session.send('SystemInfo.getProcessInfo');
    const died = new Promise<void>((closed) => first.on('close', () => closed()));
    process.kill(processInfo.find(({ type }) => type === 'browser')!.id, 'SIGKILL');
    await died;

    const second = await open();
    const again = await Tab.open(second);
    const jobs = await again.wait([running, waiting]);
    expect(jobs.map(({ state, attempts, error }) => [state, attempts, error])).toEqual([
      ['completed', 2, null],
      ['completed', 1, null],
    ]);
    expect(jobs[1].entities.map(({ type }) => type)).toContain('input_image');
    await second.close();
  } finally {
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
});

test('pause, order, front, out, repeat, keep generating, failed ones, the title and stop all', async ({ context }) => {
  const tab = await Tab.open(context, '?backend=wasm');
  const { page } = tab;
  const line = new Line(page);
  const status = page.getByRole('status');
  await expect(page.getByText('Comes with Darkroom')).toBeVisible();
  await expect(page).toHaveTitle('Darkroom');
  await page.evaluate(() => globalThis.darkroom!.pause(true));
  await expect(line.region.getByText('Paused: nothing new is begun.')).toBeVisible();
  await tab.submit(quick('one'), quick('two'), quick('three'));
  await expect(line.rows).toHaveCount(3);

  await line.button('Move number 3 up').click();
  await expect.poll(() => line.words()).toEqual(['one', 'three', 'two']);
  await expect(status).toHaveText('Place 2 of 3.');
  // Focus stays on the row, so that the keys keep working.
  await expect(line.button('Move number 2 up')).toBeFocused();
  await page.keyboard.press('ArrowDown');
  await expect.poll(() => line.words()).toEqual(['one', 'two', 'three']);
  await page.keyboard.press('Home');
  await expect.poll(() => line.words()).toEqual(['three', 'one', 'two']);
  await line.button('Make number 3 the next').click();
  await expect.poll(() => line.words()).toEqual(['two', 'three', 'one']);
  await line.rows.nth(2).dragTo(line.rows.nth(0));
  await expect.poll(() => line.words()).toEqual(['one', 'two', 'three']);
  await line.button('Take number 2 out of the line').click();
  await expect.poll(() => line.words()).toEqual(['one', 'three']);

  await line.button('Go on').click();
  await expect(line.rows).toHaveCount(0);
  await expect(line.region.getByText('Ended: 3')).toBeVisible();

  await line.region.getByText('Ended: 3').click();
  await line.button('Repeat: three').click();
  await expect(line.region.getByText('Ended: 4')).toBeVisible();

  const [long, behind] = await tab.submit(LONG, quick('behind it'));
  await expect(page).toHaveTitle(/^\d+ % · Darkroom$/);
  await line.button('Pause').click();
  await expect(line.region.getByText('Paused: nothing new is begun; the running one goes on.')).toBeVisible();
  await page.getByRole('button', { name: 'Cancel' }).click();
  await tab.wait([long]);
  await expect(page).toHaveTitle('Darkroom');
  expect((await tab.job(behind))?.state).toBe('pending');
  await line.button('Go on').click();
  await tab.wait([behind]);

  const [failed] = await tab.submit(quick('impossible', { steps: 'many' }));
  await tab.wait([failed]);
  const failures = line.region.getByRole('list', { name: 'Failed' }).getByRole('listitem');
  await expect(failures).toContainText('steps must be a whole number from 1 to 150.');
  await failures.getByRole('button', { name: 'Put away' }).click();
  await expect(failures).toHaveCount(0);

  for (const [name, value] of Object.entries({ Width: '16', Height: '16', Steps: '1' })) {
    if (!(await page.getByRole('textbox', { name: 'Steps', exact: true }).isVisible())) {
      await page.getByText('More settings').click();
    }
    await page.getByRole('textbox', { name, exact: true }).fill(value);
  }
  const keep = page.getByRole('button', { name: 'Keep generating' });
  await keep.click();
  await expect(keep).toHaveAttribute('aria-pressed', 'true');
  const made = async () => (await tab.jobs()).filter(({ state }) => state === 'completed').length;
  const before = await made();
  await expect.poll(made).toBeGreaterThan(before + 2);
  const seeds = (await tab.jobs()).slice(-3).map(({ operation }) => operation.parameters.seed);
  expect(new Set(seeds).size).toBe(3);
  await line.button('Stop all').click();
  await expect(keep).toHaveAttribute('aria-pressed', 'false');
  await expect.poll(async () => (await tab.jobs()).every(({ finishedAt }) => finishedAt !== null)).toBe(true);
  await expect(page).toHaveTitle('Darkroom');
});

test('whoever looks elsewhere: the title counts, a notification says when all is done, the screen stays on meanwhile', async ({
  context,
}) => {
  await context.grantPermissions(['notifications']);
  await context.addInitScript(() => {
    const seen = { visibility: 'visible', notes: [] as string[], locks: [] as string[], badges: [] as number[] };
    Object.assign(globalThis, { seen });
    Object.defineProperty(document, 'visibilityState', { get: () => seen.visibility });
    class Note {
      static permission = 'granted';
      static requestPermission = () => Promise.resolve('granted');
      constructor(_title: string, { body }: { body: string }) {
        seen.notes.push(body);
      }
    }
    Object.defineProperty(globalThis, 'Notification', { value: Note });
    Object.defineProperty(navigator, 'setAppBadge', {
      value: (count: number) => Promise.resolve(seen.badges.push(count)),
    });
    Object.defineProperty(navigator, 'clearAppBadge', { value: () => Promise.resolve(seen.badges.push(0)) });
    Object.defineProperty(navigator, 'wakeLock', {
      value: {
        request: () => {
          seen.locks.push('taken');
          return Promise.resolve({ release: () => Promise.resolve(seen.locks.push('released')) });
        },
      },
    });
  });
  const tab = await Tab.open(context, '?backend=wasm');
  const { page } = tab;
  await expect(page.getByText('Comes with Darkroom')).toBeVisible();
  const look = (visibility: 'visible' | 'hidden') =>
    page.evaluate((visibility) => {
      (globalThis as unknown as { seen: { visibility: string } }).seen.visibility = visibility;
      document.dispatchEvent(new Event('visibilitychange'));
    }, visibility);
  const seen = () =>
    page.evaluate(
      () => (globalThis as unknown as { seen: { notes: string[]; locks: string[]; badges: number[] } }).seen,
    );
  await tab.wait(await tab.submit(quick('seen')));
  expect(await seen()).toMatchObject({ notes: [], badges: [] });
  await expect.poll(async () => (await seen()).locks).toEqual(['taken', 'released']);
  await page.getByLabel('Notify me when all is done').check();

  await look('hidden');
  await tab.wait(await tab.submit(quick('unseen'), quick('unseen, too')));
  await expect(page).toHaveTitle('(2) Darkroom');
  await expect.poll(async () => (await seen()).notes).toEqual(['Your pictures are ready.']);
  await look('visible');
  await expect(page).toHaveTitle('Darkroom');
  expect((await seen()).badges).toEqual([1, 2, 0]);
});

test('1,000 jobs: submitting, looking and scrolling stay quick', async ({ context }) => {
  const tab = await Tab.open(context, '?backend=wasm');
  const { page } = tab;
  const line = new Line(page);
  await expect(page.getByText('Comes with Darkroom')).toBeVisible();
  const times = await page.evaluate(async (operation) => {
    await globalThis.darkroom!.pause(true);
    const times = [];
    for (let i = 0; i < 1000; i++) {
      const begun = performance.now();
      await globalThis.darkroom!.submit({
        ...operation,
        parameters: { ...operation.parameters, prompt: `number ${i + 1}` },
      });
      times.push(performance.now() - begun);
    }
    return times.sort((a, b) => a - b);
  }, HELD);
  console.log(
    `1,000 jobs: a submit takes ${times[500].toFixed(2)} ms (median), ${times[950].toFixed(2)} ms (95 of 100), ${times[999].toFixed(1)} ms (longest)`,
  );
  expect(times[500]).toBeLessThanOrEqual(5);
  await expect(page.getByRole('button', { name: '1000 wait in line' })).toBeVisible();
  expect(await line.rows.count()).toBeLessThanOrEqual(20);

  const frames = await page.evaluate(async () => {
    const list = document.querySelector('[aria-label="Waiting in line"]')?.parentElement as HTMLElement;
    const frame = () => new Promise<number>((painted) => requestAnimationFrame(painted));
    const times = [];
    let last = await frame();
    for (let i = 1; i <= 60; i++) {
      list.scrollTop = (i / 60) * list.scrollHeight;
      const now = await frame();
      times.push(now - last);
      last = now;
    }
    return times.sort((a, b) => a - b);
  });
  console.log(
    `scrolling through them: a frame takes ${frames[30].toFixed(1)} ms (median), ${frames[59].toFixed(1)} ms (longest)`,
  );
  await expect(line.rows.last()).toContainText('number 1000');
  expect(await line.rows.count()).toBeLessThanOrEqual(20);
  await line.button('Make number 1000 the next').click();
  await expect(line.rows.first()).toContainText('number 1000');
  // None of them can run; one that can runs past all of them.
  await line.button('Go on').click();
  await expect(line.region.getByText('The folder "closed" is not open')).toBeVisible();
  const [job] = await tab.wait(await tab.submit(quick('past them')));
  expect(job.state).toBe('completed');
  await line.button('Stop all').click();
  await expect(line.rows).toHaveCount(0);
  await expect.poll(async () => (await tab.jobs()).length).toBe(200);
});
