/**
 * The service worker: keeps the page on this device, so that it opens and works without a network, gives it the response headers
 * that its host may not be able to send, and is the door over HTTP for pages of our own origin (docs/API.md).
 */
import { PrecacheController, type PrecacheEntry } from 'workbox-precaching';
import { StudioError } from '../src/core/errors.ts';
import type { TaskChannel } from '../src/jobs/channel.ts';
import { JobRoutes } from '../src/jobs/routes.ts';
import { askTab } from '../src/jobs/tab_question.ts';
import { StoredJobs } from '../src/jobs/stored_jobs.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { browserStore } from '../src/recorder/browser_store.ts';
import { OpfsFileStore } from '../src/recorder/opfs_file_store.ts';
import { Recorder } from '../src/recorder/recorder.ts';

/** What a host should send, written in at build time from cli/headers.js. */
declare const __HOST_HEADERS__: Record<string, string>;
/** The same for `sandbox/`. */
declare const __SANDBOX_HEADERS__: Record<string, string>;
/** Of the worker that reaches servers, with a place for their origins. */
declare const __REMOTE_POLICY__: string;
declare const self: ServiceWorkerGlobalScope & { __WB_MANIFEST: PrecacheEntry[] };

/** Answers a request for `url` on our own origin, or says null and leaves it to the next one, in the end to the browser. */
type Route = (event: FetchEvent, url: URL) => Promise<Response> | null;

const HEADERS = Object.entries(__HOST_HEADERS__);
const SANDBOX = new URL('sandbox/', self.location.href).href;

/** ONNX Runtime comes in two builds; a browser uses one of them (src/engine/runtime.ts), so only that one is kept. */
const OTHER_RUNTIME = 'Suspending' in WebAssembly ? '.asyncify-' : '.jspi-';

class PageKeeper {
  readonly #precache = new PrecacheController({
    plugins: [{ requestWillFetch: ({ request }) => revalidating(request) }],
  });
  readonly #page = new URL('index.html', self.location.href);
  #isFirst = false;
  /** The first that answers does. */
  readonly #routes: readonly Route[] = [
    ({ request }) => door().answer(request)?.then(withHeaders) ?? null,
    (event, url) => this.#openPage(event, url),
    (event, url) => this.#kept(event, url),
    (event) => this.#elsewhere(event),
  ];

  constructor(files: PrecacheEntry[]) {
    this.#precache.addToCacheList(files.filter(({ url }) => !url.includes(OTHER_RUNTIME)));
  }

  /** What arrived in an earlier try that was cut is not fetched again. */
  install(event: ExtendableEvent): void {
    this.#isFirst = self.registration.active === null;
    void this.#precache.install(event);
  }

  /** Drops what only earlier versions needed: from here on nobody runs them. */
  activate(event: ExtendableEvent): void {
    void this.#precache.activate(event);
    if (this.#isFirst) {
      // The page that fetched all this can use it at once. A page of another version must not.
      event.waitUntil(self.clients.claim());
    }
  }

  answer(event: FetchEvent): void {
    const url = new URL(event.request.url);
    if (url.origin !== self.location.origin) {
      return;
    }
    for (const route of this.#routes) {
      const response = route(event, url);
      if (response) {
        event.respondWith(response);
        return;
      }
    }
  }

  /** The page, whatever its address asks of it. Never in place of another path: those are the server's to answer. */
  #openPage(event: FetchEvent, { pathname }: URL): Promise<Response> | null {
    const isPage = pathname === this.#page.pathname || pathname === new URL('.', this.#page).pathname;
    return isPage && event.request.mode === 'navigate' ? this.#kept(event, this.#page) : null;
  }

  #kept(event: FetchEvent, { href, origin, pathname, searchParams }: URL): Promise<Response> | null {
    if (/\/remote\.worker[.-]/.test(pathname) && searchParams.has('connect')) {
      const origins = searchParams.getAll('connect');
      return this.#kept(event, new URL(pathname, origin))?.then((response) => forRemote(response, origins)) ?? null;
    }
    const cacheKey = this.#precache.getCacheKeyForURL(href);
    if (cacheKey === undefined || event.request.method !== 'GET') {
      return null;
    }
    // With its hash at hand, a file that is missing here after all is fetched, checked and kept.
    const integrity = this.#precache.getIntegrityForCacheKey(cacheKey);
    const request = new Request(href, { credentials: 'same-origin' });
    const response = this.#precache.strategy.handle({ event, request, params: { cacheKey, integrity } });
    return href.startsWith(SANDBOX) ? response.then(forSketches) : response.then(withHeaders);
  }

  #elsewhere({ request }: FetchEvent): Promise<Response> | null {
    return request.mode === 'navigate' ? fetch(request).catch(() => this.#unreachable()) : null;
  }

  #unreachable(): Response {
    const home = new URL('.', this.#page).pathname;
    return withHeaders(
      new Response(
        `<!doctype html><html lang="en"><meta charset="utf-8" /><meta name="viewport" content="width=device-width" />` +
          `<meta name="color-scheme" content="light dark" /><title>Darkroom</title>` +
          `<p>This address is not kept on this device and cannot be reached now; open <a href="${home}">Darkroom</a> instead.</p>` +
          // Which language somebody chose is known to pages only.
          `<p lang="de">Diese Adresse ist auf diesem Gerät nicht gespeichert und jetzt nicht erreichbar; bitte stattdessen <a href="${home}">Darkroom</a> öffnen.</p>`,
        { status: 503, headers: { 'Content-Type': 'text/html; charset=utf-8' } },
      ),
    );
  }
}

/** Of files without a hash in their names; a host that knows them by their ETag need not send them twice. */
function revalidating(request: Request): Promise<Request> {
  return Promise.resolve(request.cache === 'reload' ? new Request(request, { cache: 'no-cache' }) : request);
}

/** What the server has sent stays; hosts that cannot send headers get ours, and with them cross-origin isolation. */
function withHeaders(response: Response): Response {
  const missing = HEADERS.filter(([name]) => !response.headers.has(name));
  if (missing.length === 0) {
    return response;
  }
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers: [...response.headers, ...missing] });
}

/** A host that cannot tell folders apart sends the page's policy here, too, and under that one no sketch would run. */
function forSketches(response: Response): Response {
  const headers = new Headers(response.headers);
  Object.entries(__SANDBOX_HEADERS__).forEach(([name, value]) => headers.set(name, value));
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** What a policy can name, and nothing that means more than one host. */
const ORIGIN = /^https?:\/\/[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?$/;

/** The script of the worker that reaches these origins and no others: no static host can say so itself. */
function forRemote(response: Response, origins: readonly string[]): Response {
  const named = origins.filter((one) => ORIGIN.test(one)).flatMap((one) => [one, one.replace(/^http/, 'ws')]);
  const headers = new Headers(response.headers);
  headers.set('Content-Security-Policy', __REMOTE_POLICY__.replace('{origins}', named.join(' ')));
  headers.set('Cross-Origin-Embedder-Policy', 'credentialless');
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

let opened: JobRoutes | null = null;

/** Opened by the first request: most service workers are started for a file. Jobs are submitted and watched here; open tabs run them. */
function door(): JobRoutes {
  opened ??= new JobRoutes(new StoredJobs({ catalogue, entity: recordedFile() }), {
    base: new URL('.', self.location.href).pathname,
    askEngine: askTab(
      (name) => new BroadcastChannel(name) as TaskChannel,
      (ms) => new Promise((over) => setTimeout(over, ms)),
    ),
  });
  return opened;
}

/** Reads recordings, also while a tab writes them: what was saved does not change, and its hash is compared. Nothing is written here. */
function recordedFile(): (run: string, filename: string) => Promise<Blob> {
  let recorder: Promise<Recorder> | null = null;
  return async (run, filename) => {
    recorder ??= browserStore((root) => Promise.resolve(OpfsFileStore.reading(root))).then(
      ({ store, isWhole }) => new Recorder(store, undefined, { isWhole }),
      (cause: unknown) => {
        throw new StudioError(
          'storage_unavailable',
          'This browser keeps no recordings here (a private window often does not); read them in the tab that made them.',
          { cause },
        );
      },
    );
    return (await recorder).readEntity(run, filename);
  };
}

const keeper = new PageKeeper(self.__WB_MANIFEST);
self.addEventListener('install', (event) => keeper.install(event));
self.addEventListener('activate', (event) => keeper.activate(event));
self.addEventListener('fetch', (event) => keeper.answer(event));
self.addEventListener('message', ({ data }) => {
  // A new version waits until every tab is closed, or until somebody agrees (src/app/update.svelte.ts).
  if (data === 'take_over') {
    void self.skipWaiting();
  }
});
