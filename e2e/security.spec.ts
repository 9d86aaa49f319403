/**
 * What keeps others out and secrets in: the headers of every path in every way of serving, the recipes for hosts, and a token that is
 * searched for in everything the page leaves behind.
 */
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { createServer as createPlainServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join, resolve } from 'node:path';
import { expect, test as base, type Page } from '@playwright/test';
import { createServer, preview } from 'vite';
import { chromiumFlags, findChromium } from '../cli/chromium.js';
import { headers, headersOf } from '../cli/headers.js';
import { serveFolder } from '../cli/server.js';
import { BUILTIN_CHECKPOINTS } from '../src/core/builtin_checkpoints.ts';
import type { Job } from '../src/core/job.ts';
import type { Door } from '../src/jobs/door.ts';
import { CHECKPOINTS } from './fixtures/door.ts';
import { COMMIT, Hub, filesOf } from './fixtures/hub.ts';

const PROJECT = resolve(import.meta.dirname, '..');
const DIST = join(PROJECT, 'dist');
const GATED = 'someone/gated';
const CANARY = 'hf_CanaryQx7Zr2Lk9Wv4';
const SENT = headers({ development: false });

const asset = (pattern: RegExp) => {
  const name = readdirSync(join(DIST, 'assets')).find((one) => pattern.test(one));
  if (name === undefined) {
    throw new Error(`The build has no asset like ${pattern}.`);
  }
  return `/assets/${name}`;
};

/** As on any host; browsers guess the others. */
const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

/** Requested paths of the built page and their status. */
const BUILT: [string, () => string, number][] = [
  ['the page', () => '/', 200],
  ['a script', () => asset(/^index-.*\.js$/), 200],
  ['a worker script', () => asset(/^generation\.worker-.*\.js$/), 200],
  ['the service worker', () => '/service.worker.js', 200],
  ['wasm', () => asset(/\.jspi-.*\.wasm$/), 200],
  ['the schema', () => '/schemas/operation.json', 200],
  ['a checkpoint', () => `/checkpoints/${BUILTIN_CHECKPOINTS[0].id}/unet/diffusion_pytorch_model.safetensors`, 200],
  ['what is missing', () => '/nothing/here', 404],
];

async function expectHeaders(url: string, status: number, expected: Record<string, string>): Promise<void> {
  const response = await fetch(url);
  await response.body?.cancel();
  expect(response.status, url).toBe(status);
  const sent = Object.keys(expected).map((name): [string, string | null] => [name, response.headers.get(name)]);
  expect(Object.fromEntries(sent), url).toEqual(expected);
}

base.describe('headers', () => {
  base('are those that the facts ask for', () => {
    const policy = SENT['Content-Security-Policy'].split('; ');
    for (const rule of [
      `default-src 'self'`,
      `script-src 'self' 'wasm-unsafe-eval'`,
      `worker-src 'self' blob:`,
      `img-src 'self' blob: data:`,
      `media-src 'self' blob:`,
      `style-src 'self' 'unsafe-inline'`,
      `frame-src 'self'`,
      `object-src 'none'`,
      `base-uri 'none'`,
      `form-action 'none'`,
      // Not 'none', so that pages of this origin can embed Darkroom in a frame.
      `frame-ancestors 'self'`,
    ]) {
      expect(policy).toContain(rule);
    }
    const connect = policy.find((rule) => rule.startsWith('connect-src')) ?? '';
    expect(connect.split(' ').slice(1, 6)).toEqual([
      "'self'",
      'blob:',
      'data:',
      'https://huggingface.co',
      'https://*.hf.co',
    ]);
  });

  base('come with everything that the command line serves', async () => {
    const { url, close } = await serveFolder(DIST);
    for (const [, path, status] of BUILT) {
      await expectHeaders(url + path(), status, SENT);
    }
    await close();
  });

  base('come with everything that vite preview serves', async () => {
    const server = await preview({ root: PROJECT, logLevel: 'error', preview: { port: 0, host: '127.0.0.1' } });
    const { port } = server.httpServer.address() as AddressInfo;
    for (const [, path, status] of BUILT) {
      await expectHeaders(`http://127.0.0.1:${port}${path()}`, status, SENT);
    }
    await server.close();
  });

  base('come with everything that the dev server serves, its schemas included', async () => {
    const cacheDir = mkdtempSync(join(tmpdir(), 'darkroom-vite-'));
    const server = await createServer({
      root: PROJECT,
      cacheDir,
      logLevel: 'error',
      // The page itself does not run here.
      optimizeDeps: { noDiscovery: true },
      server: { port: 0, host: '127.0.0.1', ws: false, watch: null },
    });
    try {
      await server.listen();
      const { port } = server.httpServer?.address() as AddressInfo;
      for (const [path, status] of [
        ['/', 200],
        ['/src/main.ts', 200],
        ['/@vite/client', 200],
        ['/workers/recorder.worker.ts?worker_file&type=module', 200],
        ['/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.jspi.wasm', 200],
        ['/schemas/operation.json', 200],
        [`/checkpoints/${BUILTIN_CHECKPOINTS[0].id}/manifest.json`, 200],
        ['/nothing/here', 404],
        ['/schemas/nothing.json', 404],
      ] as const) {
        await expectHeaders(`http://127.0.0.1:${port}${path}`, status, headers({ development: true }));
      }
      for (const path of ['/sandbox/stage.html', '/sandbox/p5.min.js', '/sandbox/Tone.js']) {
        await expectHeaders(`http://127.0.0.1:${port}${path}`, 200, headersOf(path, { development: true }));
      }
      const schema = await (await fetch(`http://127.0.0.1:${port}/schemas/operation.json`)).text();
      expect(schema).toBe(readFileSync(join(DIST, 'schemas', 'operation.json'), 'utf8'));
    } finally {
      await server.close();
      rmSync(cacheDir, { recursive: true, force: true });
    }
  });

  base.describe('from a host that sends none', () => {
    base.use({ serviceWorkers: 'allow' });

    base('come with everything that the service worker answers', async ({ page }) => {
      const plain = createPlainServer((request, response) => {
        const { pathname } = new URL(request.url ?? '/', 'http://host');
        const file = join(DIST, pathname.endsWith('/') ? `${pathname}index.html` : pathname);
        const type = TYPES[extname(file)] ?? 'application/octet-stream';
        if (existsSync(file)) {
          response.writeHead(200, { 'Content-Type': type }).end(readFileSync(file));
        } else {
          response.writeHead(404).end();
        }
      });
      await new Promise<void>((listening) => plain.listen(0, '127.0.0.1', listening));
      const url = `http://127.0.0.1:${(plain.address() as AddressInfo).port}`;
      try {
        await page.goto(`${url}/schemas/error.json`);
        await page.evaluate(async () => {
          const { serviceWorker } = navigator;
          await serviceWorker.register('/service.worker.js');
          if (!serviceWorker.controller) {
            await new Promise((taken) => serviceWorker.addEventListener('controllerchange', taken, { once: true }));
          }
        });
        expect((await page.goto(`${url}/`))?.headers()).toMatchObject(lowered(SENT));
        const seen = await page.evaluate(
          async ([paths, names]) => {
            const posted = await fetch('/v1/jobs', {
              method: 'POST',
              headers: { 'Content-Type': 'application/json' },
              body: JSON.stringify({ operation: 'image_generation', config: 'none', parameters: {} }),
            });
            const { job_id } = (await posted.json()) as { job_id: string };
            const sent: Record<string, [number, (string | null)[]]> = {};
            for (const [path, method] of [
              ...paths.map((path) => [path, 'GET']),
              ['/v1/jobs', 'GET'],
              ['/v1/queue', 'GET'],
              [`/v1/jobs/${job_id}`, 'GET'],
              [`/v1/jobs/${job_id}/stream`, 'GET'],
              [`/v1/jobs/${job_id}`, 'DELETE'],
              ['/v1/nothing', 'GET'],
              ['/v1/jobs', 'PUT'],
              ['/v1/media/run_1/01_x.png', 'GET'],
            ]) {
              const response = await fetch(path, { method });
              await response.body?.cancel();
              sent[`${method} ${path.replace(job_id, 'id')}`] = [
                response.status,
                names.map((name) => response.headers.get(name)),
              ];
            }
            return sent;
          },
          [
            BUILT.slice(1, 7)
              .filter(([name]) => name !== 'the service worker')
              .map(([, path]) => path()),
            Object.keys(SENT),
          ] as const,
        );
        // The worker that contacts servers has the same policy here as when the server sets it.
        const remote = `${asset(/^remote\.worker-.*\.js$/)}?connect=http://127.0.0.1:8188&connect=*&connect=https://*.example.org`;
        const policy = await page.evaluate(
          async (path) => (await fetch(path)).headers.get('Content-Security-Policy'),
          remote,
        );
        expect(policy).toBe(headersOf(remote, { development: false })['Content-Security-Policy']);
        expect(policy).toContain('connect-src blob: data: http://127.0.0.1:8188 ws://127.0.0.1:8188;');
        expect(Object.keys(seen)).toHaveLength(13);
        expect(Object.values(seen).map(([status]) => status)).toEqual([
          200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 404, 405, 404,
        ]);
        for (const [what, [, values]] of Object.entries(seen)) {
          expect(values, what).toEqual(Object.values(SENT));
        }
      } finally {
        plain.closeAllConnections();
        plain.close();
      }
    });
  });

  base('stand in the recipes of docs/serving.md for hosts', () => {
    const written = readFileSync(join(DIST, '_headers'), 'utf8').split('\n');
    expect(written[0]).toBe('/*');
    expect(written.slice(1, 1 + Object.keys(SENT).length)).toEqual(
      Object.entries(SENT).map(([name, value]) => `  ${name}: ${value}`),
    );
    const recipes = readFileSync(join(PROJECT, 'docs', 'serving.md'), 'utf8');
    for (const host of ['Netlify', 'Cloudflare Pages', 'nginx', 'GitHub Pages']) {
      expect(recipes).toContain(`**${host}`.replace('**Cloudflare', 'Cloudflare'));
    }
    // The recipe's sed turns the file into nginx directives, one per header.
    const command = /sed -n '(.*?)' dist\/_headers/.exec(recipes)?.[1] ?? '';
    expect(command).toBe(String.raw`/^\/assets/q; s/^  \([^:]*\): \(.*\)$/add_header \1 "\2" always;/p`);
    const until = written.findIndex((line) => line.startsWith('/assets'));
    const directives = written
      .slice(0, until)
      .flatMap((line) => /^ {2}([^:]*): (.*)$/.exec(line)?.slice(1, 3).join(' ') ?? []);
    expect(directives).toEqual(Object.entries(SENT).map(([name, value]) => `${name} ${value}`));
    expect(Object.values(SENT).join('')).not.toMatch(/["$\\]/);
    expect(recipes.match(/include darkroom\.conf;/g)).toHaveLength(2);
    // The recipe says so: Cloudflare Pages accepts no file above 25 MiB, and only ONNX Runtime's larger build is one.
    const large = readdirSync(join(DIST, 'assets')).filter(
      (name) => statSync(join(DIST, 'assets', name)).size > 25 * 2 ** 20,
    );
    expect(large).toHaveLength(1);
    expect(large[0]).toMatch(/\.asyncify-.*\.wasm$/);
  });
});

function lowered(record: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name.toLowerCase(), value]));
}

/** The encodings in which a text may be found: UTF-8, UTF-16, and base64 at any alignment. */
function formsOf(text: string): string[] {
  const inBase64 = [0, 1, 2].map((shift) => {
    const encoded = Buffer.from('x'.repeat(shift) + text).toString('base64');
    return encoded.slice(Math.ceil((shift * 4) / 3) + (shift > 0 ? 1 : 0), -4);
  });
  return [text, [...text].join('\0'), ...inBase64];
}

/** Where in the page's storage one of the encodings occurs, by name; reads every byte. */
function find(page: Page, forms: string[]): Promise<{ places: string[]; read: Record<string, number> }> {
  return page.evaluate(async (needles) => {
    const places: string[] = [];
    const read = { indexedDB: 0, files: 0, web: 0, caches: 0 };
    const latin1 = new TextDecoder('latin1');
    const look = (place: string, text: string, kind: keyof typeof read) => {
      read[kind] += text.length;
      if (needles.some((needle) => text.includes(needle))) {
        places.push(place);
      }
    };
    const lookInto = async (place: string, value: unknown, kind: keyof typeof read): Promise<void> => {
      if (value instanceof Blob) {
        look(
          place,
          `${latin1.decode(await value.arrayBuffer())} ${value.type} ${value instanceof File ? value.name : ''}`,
          kind,
        );
      } else if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
        look(place, latin1.decode(value), kind);
      } else if (value instanceof CryptoKey) {
        look(place, value.extractable ? JSON.stringify(await crypto.subtle.exportKey('jwk', value)) : '', kind);
      } else if (value instanceof Map || value instanceof Set || Array.isArray(value)) {
        for (const inner of value) {
          await lookInto(place, inner, kind);
        }
      } else if (typeof value === 'object' && value !== null && !(value instanceof FileSystemHandle)) {
        for (const [name, inner] of Object.entries(value)) {
          look(place, name, kind);
          await lookInto(place, inner, kind);
        }
      } else {
        look(place, value instanceof FileSystemHandle ? value.name : String(value), kind);
      }
    };
    const done = <T>(request: IDBRequest<T>) =>
      new Promise<T>((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(new Error(String(request.error)));
      });
    for (const { name } of await indexedDB.databases()) {
      const database = await done(indexedDB.open(name ?? ''));
      for (const store of database.objectStoreNames) {
        const [keys, values] = await Promise.all([
          done(database.transaction(store).objectStore(store).getAllKeys()),
          done(database.transaction(store).objectStore(store).getAll()),
        ]);
        for (const [at, key] of keys.entries()) {
          await lookInto(`indexedDB ${name}/${store}/${JSON.stringify(key)}`, [key, values[at]], 'indexedDB');
        }
      }
      database.close();
    }
    const walk = async (folder: FileSystemDirectoryHandle, path: string): Promise<void> => {
      for await (const entry of folder.values()) {
        look(`${path}/${entry.name}`, entry.name, 'files');
        if (entry.kind === 'directory') {
          await walk(entry, `${path}/${entry.name}`);
        } else {
          await lookInto(`${path}/${entry.name}`, await entry.getFile(), 'files');
        }
      }
    };
    await walk(await navigator.storage.getDirectory(), 'files');
    const { storageBuckets } = navigator as unknown as {
      storageBuckets?: {
        keys(): Promise<string[]>;
        open(name: string): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }>;
      };
    };
    for (const name of (await storageBuckets?.keys()) ?? []) {
      await walk(
        await (await (storageBuckets as NonNullable<typeof storageBuckets>).open(name)).getDirectory(),
        `bucket ${name}`,
      );
    }
    for (const [name, store] of Object.entries({ localStorage, sessionStorage })) {
      look(name, JSON.stringify({ ...store }), 'web');
    }
    look('cookies', document.cookie, 'web');
    look('the page', document.documentElement.outerHTML, 'web');
    look('the address', JSON.stringify([location.href, history.state]), 'web');
    for (const name of await caches.keys()) {
      const cache = await caches.open(name);
      for (const request of await cache.keys()) {
        const response = await cache.match(request);
        look(
          `cache ${request.url}`,
          `${request.url} ${JSON.stringify([...request.headers, ...(response?.headers ?? [])])}`,
          'caches',
        );
        await lookInto(`cache ${request.url}`, await response?.arrayBuffer(), 'caches');
      }
    }
    return { places, read };
  }, forms);
}

const test = base.extend<object, { hub: Hub }>({
  hub: [
    // eslint-disable-next-line no-empty-pattern -- Playwright wants a pattern, and it needs no fixture
    async ({}, use) => {
      const hub = await Hub.start();
      hub.token = CANARY;
      hub.repositories.set(GATED, { files: filesOf(join(CHECKPOINTS, 'tiny-turbo')), gated: 'auto' });
      await use(hub);
      await hub.stop();
    },
    { scope: 'worker' },
  ],
  launchOptions: [
    async ({ hub }, use) => {
      await use({ executablePath: findChromium(), args: [...chromiumFlags(), ...hub.flags] });
    },
    { scope: 'worker' },
  ],
});

test.describe.serial('a token of the hub', () => {
  const FORMS = formsOf(CANARY);
  const mine: string[] = [];
  const said: string[] = [];
  const violations: string[] = [];
  let page: Page;
  let channels: string;
  let answers: string;
  let stop: () => Promise<void>;

  const holds = (text: string) => FORMS.some((form) => text.includes(form));

  test.beforeAll(async ({ browser, hub }) => {
    hub.begin();
    const server = await serveFolder(DIST);
    const context = await browser.newContext({ serviceWorkers: 'allow' });
    stop = async () => {
      await context.close();
      await server.close();
    };
    context.on('request', (request) => {
      const { hostname } = new URL(request.url());
      if (hostname === '127.0.0.1') {
        const body = request.postDataBuffer()?.toString('latin1') ?? '';
        mine.push(`${request.url()} ${JSON.stringify(request.headers())} ${body}`);
      }
    });
    context.on('console', (message) => {
      said.push(message.text());
      if (message.text().includes('Content Security Policy')) {
        violations.push(message.text());
      }
    });
    context.on('weberror', (error) => said.push(String(error.error().stack)));
    page = await context.newPage();
    await page.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => {
        console.error(`Content Security Policy: ${violatedDirective} ${blockedURI}`);
      });
      const heard: unknown[] = [];
      for (const name of ['darkroom:jobs', 'darkroom:library', 'tasks:pending']) {
        new BroadcastChannel(name).onmessage = ({ data }) => heard.push(data);
      }
      Object.assign(globalThis, { heard });
    });

    await test.step('typed, used, and kept', async () => {
      await page.goto(`${server.url}/?backend=wasm#library`);
      await expect(page.getByRole('listitem', { name: BUILTIN_CHECKPOINTS[0].name, exact: true })).toBeVisible();
      await page.evaluate(() => navigator.serviceWorker.ready.then(() => undefined));
      await page.getByRole('textbox', { name: 'Name or address' }).fill(GATED);
      await page.getByRole('button', { name: 'Look', exact: true }).click();
      const sheet = page.getByRole('region', { name: GATED, exact: true });
      await expect(sheet).toContainText('Its owners want to know who fetches it');
      await page.getByText('Hub token').click();
      const token = page.getByRole('textbox', { name: 'Token', exact: true });
      // One refused first, so that the refusal is checked too.
      hub.token = 'hf_another';
      await token.fill(CANARY);
      await sheet.getByRole('button', { name: 'Look again' }).click();
      await expect.poll(() => hub.heard.filter(({ text }) => holds(text)).length).toBeGreaterThan(0);
      await expect(sheet.getByRole('button', { name: 'Look again' })).toBeVisible();
      hub.token = CANARY;
      await sheet.getByRole('button', { name: 'Look again' }).click();
      await sheet.getByRole('button', { name: /^Download/ }).click();
      await expect(page.getByRole('listitem', { name: GATED, exact: true })).toBeVisible({ timeout: 60_000 });
      await page.getByRole('checkbox', { name: 'Keep it on this device' }).check();
      await expect(page.getByText('Hub token (kept on this device)')).toBeVisible();
    });

    await test.step('a picture with what it opened, recorded and exported', async () => {
      const ref = `hub:${GATED}@${COMMIT}`;
      await expect
        .poll(() =>
          page.evaluate(async () => (await (globalThis.darkroom as Door).library.list()).map(({ state }) => state)),
        )
        .toEqual(['complete']);
      answers = await page.evaluate(async (checkpoint) => {
        const door = globalThis.darkroom as Door;
        const parameters = { prompt: 'a cat', width: 64, height: 64, steps: 1, guidance_scale: 0, seed: '1' };
        const { id } = await door.submit({
          operation: 'image_generation',
          config: 'stable_diffusion',
          checkpoint,
          parameters,
        });
        const job: Job = await door.wait(id);
        if (job.error) {
          throw new Error(job.error.message);
        }
        const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('stick', { create: true });
        await door.library.exportFolder(checkpoint, folder, () => undefined);
        const text = async (path: string) => new TextDecoder('latin1').decode(await (await fetch(path)).arrayBuffer());
        const media = job.entities.map(({ run, filename }) => `/v1/media/${run}/${filename}`);
        const paths = [
          '/v1/jobs',
          `/v1/jobs/${id}`,
          `/v1/jobs/${id}/stream`,
          '/v1/queue',
          `/v1/media/${job.run}/metadata.json`,
        ];
        return JSON.stringify([job, await Promise.all([...paths, ...media].map(text))]);
      }, ref);
      channels = await page.evaluate(() => JSON.stringify((globalThis as unknown as { heard: unknown[] }).heard));
    });
  });
  test.afterAll(() => stop());

  test('would be found wherever it lay', async () => {
    const planted = 'hf_PlantedCanary123456';
    await page.evaluate(async (text) => {
      const opened = indexedDB.open('planted', 1);
      await new Promise((done) => {
        opened.onupgradeneeded = () => opened.result.createObjectStore('x');
        opened.onsuccess = done;
      });
      const store = opened.result.transaction('x', 'readwrite').objectStore('x');
      const utf16 = Uint8Array.from([...text].flatMap((letter) => [letter.charCodeAt(0), 0]));
      const last = [{ deep: [new Blob([`a${text}`])] }, utf16.buffer, btoa(`ab${text}`), new Map([['x', text]])]
        .map((value, at) => store.put(value, at))
        .at(-1);
      await new Promise((done) => {
        (last as IDBRequest).onsuccess = done;
      });
      opened.result.close();
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('planted', { create: true });
      const stream = await (await folder.getFileHandle('file', { create: true })).createWritable();
      await stream.write(`xyz${text}`);
      await stream.close();
      localStorage.setItem('planted', text);
      await (await caches.open('planted')).put('/planted', new Response(btoa(`a${text}`)));
    }, planted);
    const { places } = await find(page, formsOf(planted));
    expect(places.filter((place) => place.startsWith('indexedDB planted/'))).toHaveLength(4);
    expect(places).toEqual(expect.arrayContaining(['files/planted/file', 'localStorage']));
    expect(places.some((place) => place.startsWith('cache ') && place.endsWith('/planted'))).toBe(true);
    expect(places).toHaveLength(7);
    await page.evaluate(async () => {
      indexedDB.deleteDatabase('planted');
      localStorage.removeItem('planted');
      await caches.delete('planted');
      await (await navigator.storage.getDirectory()).removeEntry('planted', { recursive: true });
    });
  });

  test('lies nowhere in what the browser stores, exports and recordings included', async () => {
    const { places, read } = await find(page, FORMS);
    expect(places).toEqual([]);
    console.log(`Searched: ${JSON.stringify(read)}`);
    expect(read.indexedDB).toBeGreaterThan(5e6);
    expect(read.files).toBeGreaterThan(5e6);
    expect(read.caches).toBeGreaterThan(20e6);
  });

  test('was sent to the hub and to nobody else', ({ hub }) => {
    const to = hub.heard.filter(({ text }) => holds(text)).map(({ host }) => host);
    expect(new Set(to)).toEqual(new Set(['huggingface.co']));
    expect(new Set(hub.heard.map(({ host }) => host))).toEqual(new Set(['huggingface.co', 'cdn-lfs.hf.co']));
    // In a header, never in an address, which ends up in logs.
    expect(hub.heard.filter(({ text }) => holds(text.split(' ')[0]))).toEqual([]);
    expect(mine.length).toBeGreaterThan(10);
    expect(mine.filter(holds)).toEqual([]);
  });

  test('is not in the console, nor in what the page shows', async () => {
    expect(said.filter(holds)).toEqual([]);
    expect(holds(await page.content())).toBe(false);
  });

  test('is not in what doors answer, nor on channels between tabs', () => {
    expect(answers.length).toBeGreaterThan(1e4);
    expect(holds(answers)).toBe(false);
    expect(channels.length).toBeGreaterThan(100);
    expect(holds(channels)).toBe(false);
  });

  test('is gone when it was forgotten', async ({ hub }) => {
    await page.getByRole('button', { name: 'Forget the token' }).click();
    await expect(page.getByText('Hub token', { exact: true })).toBeVisible();
    await page.reload();
    await page.getByText('Hub token').click();
    await expect(page.getByRole('textbox', { name: 'Token', exact: true })).toHaveValue('');
    expect((await find(page, FORMS)).places).toEqual([]);
    const before = hub.heard.length;
    await page.getByRole('textbox', { name: 'Name or address' }).fill(GATED);
    await page.getByRole('button', { name: 'Look', exact: true }).click();
    await expect(page.getByRole('region', { name: GATED, exact: true })).toBeVisible();
    expect(hub.heard.slice(before).filter(({ text }) => holds(text))).toEqual([]);
  });

  test('and nothing on the whole way was against the policy', async () => {
    expect(violations).toEqual([]);
    // It would have been received.
    expect(
      await page.evaluate(() =>
        fetch('https://evil.example/').then(
          () => 'sent',
          () => 'refused',
        ),
      ),
    ).toBe('refused');
    await expect.poll(() => violations.length).toBeGreaterThan(0);
  });
});
