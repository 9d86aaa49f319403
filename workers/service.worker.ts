/**
 * The service worker: caches the page so that it works offline, adds response headers that its host may be unable to send, and serves the
 * HTTP door for pages of our own origin (docs/API.md).
 */
import { PrecacheController, type PrecacheEntry } from 'workbox-precaching';
import { StudioError } from '../src/core/errors.ts';
import { runtimeBuild } from '../src/core/runtime_build.ts';
import type { TaskChannel } from '../src/jobs/channel.ts';
import { JobRoutes } from '../src/jobs/routes.ts';
import { askTab } from '../src/jobs/tab_question.ts';
import { StoredJobs } from '../src/jobs/stored_jobs.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { browserStore } from '../src/recorder/browser_store.ts';
import { OpfsFileStore } from '../src/recorder/opfs_file_store.ts';
import { Recorder } from '../src/recorder/recorder.ts';

/** The headers a host should send, inserted at build time from cli/headers.js. */
declare const __HOST_HEADERS__: Record<string, string>;
/** The same for `sandbox/`. */
declare const __SANDBOX_HEADERS__: Record<string, string>;
/** For the worker that reaches servers, with a placeholder for their origins. */
declare const __REMOTE_POLICY__: string;
declare const self: ServiceWorkerGlobalScope & { __WB_MANIFEST: PrecacheEntry[] };

/** Answers a request for `url` on our own origin; null leaves it to the next handler, and finally to the browser. */
type Route = (event: FetchEvent, url: URL) => Promise<Response> | null;

const HEADERS = Object.entries(__HOST_HEADERS__);
const SANDBOX = new URL('sandbox/', self.location.href).href;

/** ONNX Runtime comes in two builds, of which a browser uses one; only that one is cached. */
const OTHER_RUNTIME = runtimeBuild(WebAssembly) === 'jspi' ? '.asyncify-' : '.jspi-';

class PageKeeper {
  readonly #precache = new PrecacheController({
    plugins: [{ requestWillFetch: ({ request }) => revalidating(request) }],
  });
  readonly #page = new URL('index.html', self.location.href);
  #isFirst = false;
  /** In order; the first one to answer wins. */
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

  /** Drops files that only earlier versions needed, since nobody runs those any more. */
  activate(event: ExtendableEvent): void {
    void this.#precache.activate(event);
    if (this.#isFirst) {
      // The page that triggered this can use it at once; a page of another version must not.
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

  /** The page, whatever its query string. Never for another path, which the server must answer. */
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
    // With the hash, a missing file is fetched, verified and kept.
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
          // Only pages know which language the person chose.
          `<p lang="de">Diese Adresse ist auf diesem Gerät nicht gespeichert und jetzt nicht erreichbar; bitte stattdessen <a href="${home}">Darkroom</a> öffnen.</p>`,
        { status: 503, headers: { 'Content-Type': 'text/html; charset=utf-8' } },
      ),
    );
  }
}

/** For files without a hash in their names; a host that sends ETags need not send them twice. */
function revalidating(request: Request): Promise<Request> {
  return Promise.resolve(request.cache === 'reload' ? new Request(request, { cache: 'no-cache' }) : request);
}

/** Keeps headers the server sent, and adds ours for hosts that cannot, which enables cross-origin isolation. */
function withHeaders(response: Response): Response {
  const missing = HEADERS.filter(([name]) => !response.headers.has(name));
  if (missing.length === 0) {
    return response;
  }
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers: [...response.headers, ...missing] });
}

/** A host without per-folder headers sends the page's policy here too, under which no sketch would run. */
function forSketches(response: Response): Response {
  const headers = new Headers(response.headers);
  Object.entries(__SANDBOX_HEADERS__).forEach(([name, value]) => headers.set(name, value));
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** An origin that a policy can name, and that stands for a single host. */
const ORIGIN = /^https?:\/\/[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?$/;

/** The script of the worker that reaches only these origins, with a policy that no static host could send. */
function forRemote(response: Response, origins: readonly string[]): Response {
  const named = origins.filter((one) => ORIGIN.test(one)).flatMap((one) => [one, one.replace(/^http/, 'ws')]);
  const headers = new Headers(response.headers);
  headers.set('Content-Security-Policy', __REMOTE_POLICY__.replace('{origins}', named.join(' ')));
  headers.set('Cross-Origin-Embedder-Policy', 'credentialless');
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

let opened: JobRoutes | null = null;

/** Opened on the first request, since most service workers start just to serve a file. Jobs are submitted and watched here; open tabs run them. */
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

/** Reads recordings, even while a tab writes them: saved files never change, and their hashes are checked. Nothing is written here. */
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
  // A new version waits until every tab is closed, or the person agrees (src/app/update.svelte.ts).
  if (data === 'take_over') {
    void self.skipWaiting();
  }
});
