/** Without a network, with a bad one, and when a new version arrives: what is stored on this device keeps working. */
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, unlinkSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, relative, sep } from 'node:path';
import { expect, test as base, type BrowserContext, type Page } from '@playwright/test';
import { build, type InlineConfig } from 'vite';
import { serveFolder } from '../../cli/server.js';
import type { Door } from '../../src/jobs/door.ts';

const PROJECT = join(import.meta.dirname, '..', '..');
const DIST = join(PROJECT, 'dist');
const LONG_JOB = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'a red circle', width: 64, height: 64, steps: 150, seed: '7' },
};

/** A host whose folder can be replaced, as by a new version, and which can go down. */
class Host {
  private constructor(
    readonly url: string,
    readonly place: string,
    readonly stop: () => Promise<void>,
  ) {}

  static async start(folder = DIST): Promise<Host> {
    const place = mkdtempSync(join(tmpdir(), 'darkroom-host-'));
    symlinkSync(folder, join(place, 'live'), 'junction');
    const { url, close } = await serveFolder(join(place, 'live'));
    return new Host(url, place, close);
  }

  deploy(folder: string): void {
    unlinkSync(join(this.place, 'live'));
    symlinkSync(folder, join(this.place, 'live'), 'junction');
  }
}

/** A host that sends none of our headers, logs requests, and breaks off one file in the middle on demand. */
class PlainHost {
  readonly asked: string[] = [];
  cut: string | null = null;
  url = '';

  async start(): Promise<() => Promise<void>> {
    const source = await serveFolder(DIST);
    const server = createServer((request, response) => {
      const path = request.url ?? '/';
      this.asked.push(path);
      void fetch(source.url + path).then(async (answer) => {
        const body = Buffer.from(await answer.arrayBuffer());
        const type = answer.headers.get('content-type') ?? '';
        response.writeHead(answer.status, { 'Content-Type': type, 'Content-Length': body.length });
        if (path === this.cut) {
          response.write(body.subarray(0, body.length / 2), () => response.destroy());
        } else {
          response.end(body);
        }
      });
    });
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    return async () => {
      server.close();
      server.closeAllConnections();
      await source.close();
    };
  }
}

/** Logs every request that leaves this machine, from pages, workers and service workers. */
function watchHosts(context: BrowserContext, foreign: string[]): void {
  context.on('request', (request) => {
    const { hostname, protocol } = new URL(request.url());
    if (hostname !== '127.0.0.1' && protocol !== 'blob:' && protocol !== 'data:') {
      foreign.push(request.url());
    }
  });
}

const test = base.extend<{ foreign: string[]; host: Host }>({
  foreign: async ({ context }, use) => {
    const foreign: string[] = [];
    watchHosts(context, foreign);
    await use(foreign);
    expect(foreign, 'requests to foreign hosts').toEqual([]);
  },
  host: async ({ foreign: _ }, use) => {
    const host = await Host.start();
    await use(host);
    await host.stop();
    rmSync(host.place, { recursive: true, force: true });
  },
});
test.use({ serviceWorkers: 'allow' });

async function open(page: Page, url: string): Promise<void> {
  await page.goto(`${url}/?backend=wasm`);
  await expect(page.getByRole('button', { name: 'Generate', exact: true })).toBeEnabled();
}

/** Opens the page and waits until it is completely cached and runs from the cache. */
async function visit(page: Page, url: string): Promise<void> {
  await open(page, url);
  await page.evaluate(async () => {
    const { serviceWorker } = navigator;
    await serviceWorker.ready;
    if (!serviceWorker.controller) {
      await new Promise((claimed) => serviceWorker.addEventListener('controllerchange', claimed, { once: true }));
    }
  });
}

async function makePicture(page: Page): Promise<void> {
  await page.getByText('More settings').click();
  for (const [name, value] of Object.entries({ Width: '64', Height: '64', Steps: '2' })) {
    await page.getByRole('textbox', { name, exact: true }).fill(value);
  }
  await page.getByRole('button', { name: 'Generate', exact: true }).click();
  await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible({ timeout: 120_000 });
  await expect(page.getByRole('status')).toContainText('The picture is ready');
}

/** The addresses in the precache, without revisions, and their bytes. */
function keptFiles(page: Page): Promise<{ path: string; bytes: number }[]> {
  return page.evaluate(async () => {
    const found: { path: string; bytes: number }[] = [];
    for (const name of await caches.keys()) {
      const cache = await caches.open(name);
      for (const request of await cache.keys()) {
        const blob = await (await cache.match(request))?.blob();
        found.push({ path: new URL(request.url).pathname.slice(1), bytes: blob?.size ?? -1 });
      }
    }
    return found.sort((a, b) => (a.path < b.path ? -1 : 1));
  });
}

/** What a browser with JSPI, such as Chromium, must cache of a build. */
function filesToKeep(folder: string): { path: string; bytes: number }[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((file) => ({ path: relative(folder, file).replaceAll(sep, '/'), bytes: statSync(file).size }))
    .filter(({ path }) => !/^_headers$|^service\.worker\.js$|\.md$|\.asyncify-/.test(path))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

async function buildInto(folder: string, config: InlineConfig): Promise<void> {
  // Playwright sets it to "test", which would produce a development build.
  const before = process.env.NODE_ENV;
  process.env.NODE_ENV = 'production';
  try {
    await build({ root: PROJECT, logLevel: 'error', build: { outDir: folder, emptyOutDir: true }, ...config });
  } finally {
    process.env.NODE_ENV = before;
  }
}

test.describe('without a network', () => {
  test('a cold start after one visit shows the studio, isolated, and makes a picture', async ({
    playwright,
    launchOptions,
    host,
  }, testInfo) => {
    const profile = testInfo.outputPath('profile');
    const foreign: string[] = [];
    const launch = async () => {
      const context = await playwright.chromium.launchPersistentContext(profile, launchOptions);
      watchHosts(context, foreign);
      return { context, page: await context.newPage() };
    };
    const online = await launch();
    await visit(online.page, host.url);
    await online.context.close();
    await host.stop();

    const { context, page } = await launch();
    try {
      await context.setOffline(true);
      await open(page, host.url);
      expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
      await makePicture(page);
      expect(foreign).toEqual([]);
    } finally {
      await context.close();
      rmSync(profile, { recursive: true, force: true });
    }
  });

  test('a network that goes away during the first visit takes nothing with it', async ({ page, context, host }) => {
    await visit(page, host.url);
    await context.setOffline(true);
    await host.stop();
    await makePicture(page);
  });

  test('an address that is not kept is 404 online and one clear sentence offline', async ({ page, context, host }) => {
    await visit(page, host.url);
    const online = await page.goto(`${host.url}/nothing/here`);
    expect(online?.status()).toBe(404);
    await expect(page.locator('body')).toHaveText('Not found.');
    const statuses = await page.evaluate(async () => {
      const ask = async (path: string) => {
        const response = await fetch(path);
        return [response.status, response.headers.get('content-type'), response.headers.get('cache-control')];
      };
      return [await ask('/missing.js'), await ask('/service.worker.js'), await ask('/checkpoints/none/none.json')];
    });
    expect(statuses).toEqual([
      [404, 'text/plain; charset=utf-8', null],
      [200, 'text/javascript; charset=utf-8', 'no-cache'],
      [404, 'text/plain; charset=utf-8', null],
    ]);

    await context.setOffline(true);
    await host.stop();
    expect((await page.goto(`${host.url}/nothing/here`))?.status()).toBe(503);
    await expect(page.locator('p')).toHaveText([
      'This address is not kept on this device and cannot be reached now; open Darkroom instead.',
      'Diese Adresse ist auf diesem Gerät nicht gespeichert und jetzt nicht erreichbar; bitte stattdessen Darkroom öffnen.',
    ]);
    await page.getByRole('link', { name: 'Darkroom' }).first().click();
    await expect(page.getByRole('button', { name: 'Generate', exact: true })).toBeEnabled();
  });

  test('a service worker that was killed comes back, and the page loads', async ({ page, context, host }) => {
    await visit(page, host.url);
    const session = await context.newCDPSession(page);
    await session.send('ServiceWorker.enable');
    await host.stop();
    await session.send('ServiceWorker.stopAllWorkers');
    await open(page, host.url);
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
  });

  test('the page below another path is kept as well, and its manifest holds there', async ({ page, context }) => {
    const place = mkdtempSync(join(tmpdir(), 'darkroom-below-'));
    try {
      await buildInto(join(place, 'some', 'where'), { base: '/some/where/' });
      const { url, close } = await serveFolder(place);
      await visit(page, `${url}/some/where`);
      const session = await context.newCDPSession(page);
      const { errors, data } = await session.send('Page.getAppManifest');
      expect(errors).toEqual([]);
      const manifest = JSON.parse(data ?? '') as { start_url: string; icons: { src: string }[] };
      const at = (path: string) => new URL(path, `${url}/some/where/manifest.webmanifest`).href;
      expect(at(manifest.start_url)).toBe(`${url}/some/where/`);
      for (const { src } of manifest.icons) {
        expect((await page.request.get(at(src))).status(), src).toBe(200);
      }
      await context.setOffline(true);
      await close();
      await open(page, `${url}/some/where`);
    } finally {
      rmSync(place, { recursive: true, force: true });
    }
  });
});

test.describe('what is kept', () => {
  test('is the page, one build of the engine and the built-in checkpoint, byte for byte', async ({ page, host }) => {
    await visit(page, host.url);
    const kept = await keptFiles(page);
    console.log(kept.map(({ path, bytes }) => `${String(bytes).padStart(10)} ${path}`).join('\n'));
    console.log(`${String(kept.reduce((sum, { bytes }) => sum + bytes, 0)).padStart(10)} in all`);
    expect(kept).toEqual(filesToKeep(DIST));
  });

  test('is completed at the next visit when the first one was cut in the middle', async ({ page, foreign: _ }) => {
    const host = new PlainHost();
    const stop = await host.start();
    try {
      // The build of the engine that this browser does not run: only the service worker asks for it.
      const chunk = `/assets/worker/${readdirSync(join(DIST, 'assets/worker')).find((name) => name.startsWith('ort.webgpu.'))}`;
      host.cut = chunk;
      await open(page, host.url);
      await expect.poll(() => host.asked).toContain(chunk);
      await expect
        .poll(() => page.evaluate(async () => (await navigator.serviceWorker.getRegistrations()).length))
        .toBe(0);
      const before = await keptFiles(page);
      expect(before.length).toBeGreaterThan(5);
      expect(before.map(({ path }) => `/${path}`)).not.toContain(chunk);

      host.cut = null;
      host.asked.length = 0;
      await visit(page, host.url);
      expect(await keptFiles(page)).toEqual(filesToKeep(DIST));
      // Icons of this size show it, and they had arrived.
      expect(before.map(({ path }) => path)).toContain('icon-512.png');
      expect(host.asked).not.toContain('/icon-512.png');
      expect(host.asked.filter((path) => path === chunk)).toHaveLength(1);
    } finally {
      await stop();
    }
  });

  test('makes a host without headers isolated from the second visit on', async ({ page, context, foreign: _ }) => {
    const host = new PlainHost();
    const stop = await host.start();
    try {
      await visit(page, host.url);
      expect(await page.evaluate(() => crossOriginIsolated)).toBe(false);
      await open(page, host.url);
      expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
      await expect(
        page.evaluate(() => fetch('https://example.org/').catch(() => 'refused by the policy')),
      ).resolves.toBe('refused by the policy');
    } finally {
      await stop();
    }
    await context.setOffline(true);
    await open(page, host.url);
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
  });

  test('is nothing for the command line', async ({ page, host }) => {
    await page.goto(`${host.url}/?door=cli&backend=wasm`);
    await page.evaluate(() => (globalThis.darkroom as Door).device());
    expect(await page.evaluate(async () => (await navigator.serviceWorker.getRegistrations()).length)).toBe(0);
  });
});

test.describe('a new version', () => {
  let second = '';

  test.beforeAll(async () => {
    second = mkdtempSync(join(tmpdir(), 'darkroom-second-'));
    const renamed = {
      name: 'second-version',
      enforce: 'pre' as const,
      transform: (code: string, id: string) => {
        const isSeen = id.endsWith('/Masthead.svelte');
        return isSeen || id.endsWith('/Door.svelte') ? code.replace(isSeen ? '</h1>' : /$/, ' the second$&') : null;
      },
    };
    await buildInto(second, { plugins: [renamed] });
  });

  test.afterAll(() => rmSync(second, { recursive: true, force: true }));

  const heading = (page: Page) => page.getByRole('heading', { level: 1 });
  const offer = (page: Page) => page.getByText('A new version is ready.');
  const reload = (page: Page) => page.getByRole('button', { name: 'Reload' });

  /** Checks for the new version and waits until all of it is here. */
  const fetchVersion = (page: Page) =>
    page.evaluate(async () => {
      const registration = await navigator.serviceWorker.ready;
      await registration.update();
      const { installing } = registration;
      if (installing) {
        await new Promise<void>((installed) => {
          installing.addEventListener('statechange', () => installing.state === 'installed' && installed());
        });
      }
    });

  const startLongJob = async (page: Page) => {
    await page.evaluate(async (operation) => {
      await (globalThis.darkroom as Door).submit(operation);
    }, LONG_JOB);
    await expect(page.getByRole('progressbar')).toBeVisible();
  };

  test('waits, is offered, and runs after Reload, which loads the page once', async ({ page, host }) => {
    await visit(page, host.url);
    host.deploy(second);
    await fetchVersion(page);
    await expect(offer(page)).toBeVisible();
    await expect(heading(page)).toHaveText('Darkroom');
    // Reloading by hand does not change the version, nor is the offer forgotten.
    await open(page, host.url);
    await expect(heading(page)).toHaveText('Darkroom');
    await expect(offer(page)).toBeVisible();

    let loads = 0;
    page.on('load', () => (loads += 1));
    await reload(page).click();
    await expect(heading(page)).toHaveText('Darkroom the second');
    await expect(page.getByRole('button', { name: 'Generate', exact: true })).toBeEnabled();
    await expect(offer(page)).toBeHidden();
    expect(loads).toBe(1);
    // Nothing is left of the old one.
    await page.evaluate(() => navigator.serviceWorker.ready);
    expect(await keptFiles(page)).toEqual(filesToKeep(second));
  });

  test('is not offered in the middle of a job', async ({ page, host }) => {
    await visit(page, host.url);
    await startLongJob(page);
    host.deploy(second);
    await fetchVersion(page);
    expect(await page.evaluate(async () => (await navigator.serviceWorker.ready).waiting?.state)).toBe('installed');
    await expect(page.getByRole('progressbar')).toBeVisible();
    await expect(offer(page)).toBeHidden();
    await expect(heading(page)).toHaveText('Darkroom');
    await page.getByRole('button', { name: 'Cancel' }).click();
    await expect(offer(page)).toBeVisible();
  });

  test('waits for the job of another tab, and then every tab has it', async ({ page, context, host }) => {
    await visit(page, host.url);
    const other = await context.newPage();
    await open(other, host.url);
    await startLongJob(page);
    host.deploy(second);
    await fetchVersion(other);
    await reload(other).click();
    await expect(other.getByText('Another tab is at work; press Reload again when it has finished.')).toBeVisible();
    await expect(page.getByRole('progressbar')).toBeVisible();
    await page.getByRole('button', { name: 'Cancel' }).click();
    await expect(page.getByRole('progressbar')).toBeHidden();
    await reload(other).click();
    for (const tab of [page, other]) {
      await expect(heading(tab)).toHaveText('Darkroom the second');
    }
  });

  test('leaves the old version its late chunks while it waits', async ({ page, host }) => {
    await visit(page, host.url);
    host.deploy(second);
    await fetchVersion(page);
    await expect(offer(page)).toBeVisible();
    const chunks = (folder: string) => readdirSync(join(folder, 'assets')).filter((name) => name.endsWith('.js'));
    const gone = chunks(DIST).filter((name) => !chunks(second).includes(name));
    const late = gone.find((name) => name.startsWith('Door-')) ?? '';
    expect((await fetch(`${host.url}/assets/${late}`)).status).toBe(404);
    expect(
      await page.evaluate(async (path) => {
        const chunk = (await import(path)) as { default: unknown };
        return typeof chunk.default;
      }, `/assets/${late}`),
    ).toBe('function');
    for (const name of gone) {
      const text = await page.evaluate(async (path) => (await fetch(path)).text(), `/assets/${name}`);
      expect(text === readFileSync(join(DIST, 'assets', name), 'utf8'), name).toBe(true);
    }
  });
});
