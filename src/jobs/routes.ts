/**
 * The HTTP door. Pages of our own origin ask and the service worker answers; nothing leaves the browser. It turns a Request into a
 * Response over any {@link JobService}, using no DOM or worker API, so that tests can run it in Node.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';
import type { Delta, Job } from '../core/job.ts';
import { parse, parseOperation } from '../core/operation.ts';
import { nobody } from './engine_questions.ts';
import type { AskEngine, EngineQuestion } from './engine_questions.ts';
import { jobReport } from './job_report.ts';
import { joinDelta } from './job_watchers.ts';
import { readJson, readOperation, Refusal } from './request_body.ts';
import type { JobService } from './service.ts';
import { isFinished } from './state.ts';

/** The id of a stream's last event; a browser that reconnects with it learns that there is nothing more. */
const LAST_EVENT = 'end';
const HEARTBEAT_MS = 15_000;
/** Chromium stops a service worker five minutes into a request; a stream that ends earlier is resumed by the browser. */
const STREAM_MS = 4 * 60_000;
/** A reader further behind than this only gets the newest state. */
const EVENTS_AHEAD = 64;
/** Reconnect delay for an EventSource left open after the end: a day. Chromium does not show a service worker the last event id. */
const NEVER_MS = 24 * 60 * 60 * 1000;

const STATUS: Record<ErrorCode, number> = {
  invalid_operation: 400,
  image_unreadable: 400,
  media_unreadable: 400,
  checkpoint_incomplete: 409,
  checkpoint_damaged: 409,
  cancelled: 409,
  checkpoint_unsupported: 422,
  does_not_fit: 422,
  context_too_long: 422,
  result_invalid: 500,
  internal: 500,
  origin_unavailable: 502,
  no_webgpu: 503,
  gpu_lost: 503,
  out_of_memory: 503,
  worker_failed: 503,
  storage_unavailable: 503,
  storage_full: 507,
};

const queueChange = v.pipe(
  v.strictObject({
    isPaused: v.optional(v.boolean('isPaused must be true or false.')),
    forever: v.optional(v.nullable(v.string('forever must be the id of a job, or null.'))),
  }),
  v.check(
    ({ isPaused, forever }) => isPaused !== undefined || forever !== undefined,
    'Nothing is to be changed: say isPaused or forever.',
  ),
);

const asObject = v.record(v.string(), v.unknown(), 'The request must be a JSON object.');

const jobChange = v.strictObject({
  before: v.nullable(v.string('before must be the id of a waiting job, or null to run last.')),
});

type Method = (request: Request, ...parts: string[]) => Promise<Response>;

export class JobRoutes {
  readonly #jobs: JobService;
  readonly #askEngine: AskEngine;
  /** Path of the page's folder, with a trailing slash. */
  readonly #base: string;
  readonly #heartbeat: number;
  readonly #longest: number;
  readonly #routes: readonly [path: RegExp, methods: Record<string, Method>][] = [
    [
      /^jobs$/,
      {
        GET: () => this.#list(),
        POST: (request) => this.#submit(request),
        DELETE: () => this.#cancelAll(),
      },
    ],
    [
      /^jobs\/([^/]+)$/,
      {
        GET: (_, id) => this.#tell(id),
        PATCH: (request, id) => this.#reorder(request, id),
        DELETE: (request, id) => this.#cancel(request, id),
      },
    ],
    [/^jobs\/([^/]+)\/stream$/, { GET: (request, id) => this.#follow(request, id) }],
    [/^jobs\/([^/]+)\/repeat$/, { POST: (_, id) => this.#repeat(id) }],
    [/^queue$/, { GET: () => this.#queue(), PATCH: (request) => this.#changeQueue(request) }],
    [/^engine$/, { GET: () => this.#engine('engine') }],
    [
      /^engine\/prepare$/,
      { POST: async (request) => this.#engine('prepare', { operation: await readOperation(request) }) },
    ],
    [/^engine\/unload$/, { POST: () => this.#engine('unload') }],
    [
      /^checkpoints$/,
      {
        GET: () => this.#engine('checkpoints'),
        POST: async (request) => this.#engine('fetch', await asked(request), 202),
      },
    ],
    [/^checkpoints\/look$/, { POST: async (request) => this.#engine('look', await asked(request)) }],
    [/^checkpoints\/([^/]+)$/, { DELETE: (_, ref) => this.#engine('remove', { ref }) }],
    [/^media\/([^/]+)\/([^/]+)$/, { GET: (request, run, filename) => this.#media(request, run, filename) }],
  ];

  /** @param options.askEngine answers questions that are not about jobs */
  constructor(
    jobs: JobService,
    options: { base: string; askEngine?: AskEngine; heartbeatMs?: number; streamMs?: number },
  ) {
    this.#jobs = jobs;
    this.#askEngine = options.askEngine ?? nobody;
    this.#base = options.base;
    this.#heartbeat = options.heartbeatMs ?? HEARTBEAT_MS;
    this.#longest = options.streamMs ?? STREAM_MS;
  }

  /** Null for any other URL; else always a response, never a rejection. */
  answer(request: Request): Promise<Response> | null {
    const { pathname } = new URL(request.url);
    const home = `${this.#base}v1`;
    if (pathname !== home && !pathname.startsWith(`${home}/`)) {
      return null;
    }
    return this.#answer(request, pathname.slice(home.length + 1)).catch(refused);
  }

  async #answer(request: Request, path: string): Promise<Response> {
    if (isForeign(request)) {
      throw new Refusal(403, 'These routes answer pages of their own origin only; open Darkroom itself to use it.');
    }
    for (const [pattern, methods] of this.#routes) {
      const match = pattern.exec(path);
      if (match) {
        const allowed = Object.keys(methods).flatMap((name) => (name === 'GET' ? ['GET', 'HEAD'] : [name]));
        const method = request.method === 'HEAD' ? 'GET' : request.method;
        if (!Object.hasOwn(methods, method)) {
          throw new Refusal(
            405,
            `${this.#base}v1/${pathWords(path)} takes ${allowed.join(', ')}, not ${request.method}.`,
            { Allow: allowed.join(', ') },
          );
        }
        const response = await methods[method](request, ...match.slice(1).map(decoded));
        if (request.method === 'HEAD') {
          await response.body?.cancel();
          return new Response(null, { status: response.status, headers: response.headers });
        }
        return response;
      }
    }
    throw new Refusal(404, `There is nothing at this address; the routes are described in docs/API.md.`);
  }

  async #list(): Promise<Response> {
    return json(200, { jobs: (await this.#jobs.list()).map(jobReport) });
  }

  async #submit(request: Request): Promise<Response> {
    const id = request.headers.get('Idempotency-Key') ?? undefined;
    return this.#accepted(await this.#jobs.submit(parseOperation(await readOperation(request)), id));
  }

  async #cancelAll(): Promise<Response> {
    await this.#jobs.cancelAll();
    return this.#list();
  }

  async #tell(id: string): Promise<Response> {
    return json(200, jobReport(await this.#known(id)));
  }

  async #reorder(request: Request, id: string): Promise<Response> {
    const { before } = parse(jobChange, await readJson(request), 'The change');
    await this.#known(id);
    await this.#jobs.reorder(id, before);
    return this.#tell(id);
  }

  /** Cancels; with `?forget` it removes an ended one from the list. */
  async #cancel(request: Request, id: string): Promise<Response> {
    const job = await this.#known(id);
    if (!new URL(request.url).searchParams.has('forget')) {
      return json(200, jobReport(await this.#jobs.cancel(id)));
    }
    if (!isFinished(job)) {
      throw new Refusal(409, `The job "${id}" has not ended yet; cancel it first, then forget it.`);
    }
    await this.#jobs.remove(id);
    return new Response(null, { status: 204 });
  }

  async #repeat(id: string): Promise<Response> {
    await this.#known(id);
    return this.#accepted(await this.#jobs.repeat(id));
  }

  async #engine(type: EngineQuestion, asked: object = {}, status = 200): Promise<Response> {
    return json(status, await this.#askEngine(type, asked));
  }

  async #queue(): Promise<Response> {
    return json(200, await this.#jobs.queue());
  }

  async #changeQueue(request: Request): Promise<Response> {
    const { isPaused, forever } = parse(queueChange, await readJson(request), 'The change');
    if (forever !== undefined) {
      await this.#jobs.forever(forever);
    }
    if (isPaused !== undefined) {
      await this.#jobs.pause(isPaused);
    }
    return this.#queue();
  }

  async #media(request: Request, run: string, filename: string): Promise<Response> {
    const file = await this.#jobs.entity(run, filename).catch((thrown: unknown) => {
      throw absent(thrown);
    });
    const headers = {
      'Content-Type': servedType(file.type),
      'Content-Disposition': `inline; filename="${filename.replace(/[^\w.-]/g, '_')}"`,
      'Accept-Ranges': 'bytes',
      'Cache-Control': 'no-store',
    };
    const range = byteRange(request.headers.get('Range'), file.size);
    if (range === 'whole') {
      return new Response(file, { status: 200, headers: { ...headers, 'Content-Length': String(file.size) } });
    }
    if (range === 'outside') {
      throw new Refusal(416, `The file has ${file.size} bytes; ask for a range within it.`, {
        'Content-Range': `bytes */${file.size}`,
      });
    }
    const { begin, end } = range;
    return new Response(file.slice(begin, end, file.type), {
      status: 206,
      headers: {
        ...headers,
        'Content-Length': String(end - begin),
        'Content-Range': `bytes ${begin}-${end - 1}/${file.size}`,
      },
    });
  }

  /**
   * Server-sent events: `job` at once and after every change, `delta` with words while they come into being, `end` with the job as it ended, then the stream closes. It also closes after some
   * minutes, without `end`: an EventSource comes back by itself.
   */
  async #follow(request: Request, id: string): Promise<Response> {
    const job = await this.#known(id);
    if (isFinished(job) && request.headers.get('Last-Event-ID') === LAST_EVENT) {
      // Tells an EventSource not to reconnect.
      return new Response(null, { status: 204 });
    }
    const headers = { 'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-store' };
    return new Response(this.#events(id, request.signal), { status: 200, headers });
  }

  #events(id: string, left: AbortSignal): ReadableStream<Uint8Array> {
    const text = new TextEncoder();
    let stop: () => void = () => {};
    let flush: () => void = () => {};
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          let count = 0;
          let news: Job | null = null;
          const words: Delta[] = [];
          let isOver = false;
          let unfollow: () => void = () => {};
          let unread: () => void = () => {};
          const send = (event: string) => controller.enqueue(text.encode(event));
          const beat = setInterval(() => {
            if ((controller.desiredSize ?? 0) > 0) {
              send(': still here\n\n');
            }
            // The job may have been forgotten, which is not reported.
            this.#jobs.get(id).catch((thrown: unknown) => {
              if (!isOver) {
                send(`event: error\ndata: ${JSON.stringify(errorBody(absent(thrown)))}\n\n`);
                close();
              }
            });
          }, this.#heartbeat);
          const enough = setTimeout(() => close(), this.#longest);
          stop = () => {
            isOver = true;
            clearInterval(beat);
            clearTimeout(enough);
            unfollow();
            unread();
          };
          const close = () => {
            stop();
            controller.close();
          };
          flush = () => {
            if (isOver || (controller.desiredSize ?? 0) <= 0) {
              return;
            }
            words.splice(0).forEach((delta) => send(`event: delta\ndata: ${JSON.stringify(delta)}\n\n`));
            if (news === null) {
              return;
            }
            const job = news;
            news = null;
            const [name, eventId] = isFinished(job) ? ['end', LAST_EVENT] : ['job', String(++count)];
            const retry = isFinished(job) ? `retry: ${NEVER_MS}\n` : '';
            send(`event: ${name}\nid: ${eventId}\n${retry}data: ${JSON.stringify(jobReport(job))}\n\n`);
            if (isFinished(job)) {
              close();
            }
          };
          left.addEventListener('abort', stop);
          send('retry: 1000\n\n');
          unread = this.#jobs.deltas(id, (delta) => {
            // A reader who falls behind gets them merged, with none missing.
            joinDelta(words, delta);
            flush();
          });
          unfollow = this.#jobs.follow(id, (job) => {
            news = job;
            flush();
          });
          if (isOver) {
            // It had already ended, and was reported before `follow` returned.
            unfollow();
            unread();
          }
        },
        pull: () => flush(),
        cancel: () => stop(),
      },
      { highWaterMark: EVENTS_AHEAD },
    );
  }

  #accepted({ id }: Job): Response {
    return json(202, { job_id: id }, { Location: `${this.#base}v1/jobs/${id}` });
  }

  /** @throws Refusal 404 */
  #known(id: string): Promise<Job> {
    return this.#jobs.get(id).catch((thrown: unknown) => {
      throw absent(thrown);
    });
  }
}

/**
 * Whether the request comes from anyone but a page of our own origin. Subresource requests of other origins never reach a service worker,
 * but their navigations do, without revealing their origin; so a form must not do what only a script should.
 */
function isForeign(request: Request): boolean {
  const origin = request.headers.get('Origin');
  const site = request.headers.get('Sec-Fetch-Site');
  const changes = request.method !== 'GET' && request.method !== 'HEAD';
  return (
    (origin !== null && origin !== new URL(request.url).origin) ||
    (site !== null && site !== 'same-origin' && site !== 'none') ||
    (changes && request.mode === 'navigate')
  );
}

/** @throws Refusal | StudioError */
async function asked(request: Request): Promise<object> {
  return parse(asObject, await readJson(request), 'The request');
}

/** Recorded text is UTF-8, which its MIME type does not say. */
function servedType(type: string): string {
  return type.startsWith('text/') ? `${type}; charset=utf-8` : type || 'application/octet-stream';
}

/** A single byte range as in RFC 9110; anything else, including several ranges, means the whole file. */
function byteRange(header: string | null, size: number): { begin: number; end: number } | 'whole' | 'outside' {
  const match = /^bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))$/.exec(header ?? '');
  if (!match) {
    return 'whole';
  }
  const [, first, last, suffix] = match;
  const begin = first === undefined ? Math.max(0, size - Number(suffix)) : Number(first);
  const end = first === undefined || last === '' ? size : Math.min(size, Number(last) + 1);
  if (first !== undefined && last !== '' && Number(last) < begin) {
    return 'whole';
  }
  return begin < end ? { begin, end } : 'outside';
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new Refusal(400, 'The address is not valid: a % in it is not followed by two digits.');
  }
}

/** A path quoted in a sentence; ids and names may be anything. */
function pathWords(path: string): string {
  return path
    .replace(/^(jobs)\/[^/]+/, '$1/{id}')
    .replace(/^checkpoints\/(?!look$).*/, 'checkpoints/{ref}')
    .replace(/^media\/.*/, 'media/{run}/{entity}');
}

/** Unknown means not found. */
function absent(thrown: unknown): unknown {
  const error = StudioError.from(thrown);
  return error.code === 'invalid_operation' ? new Refusal(404, error.message) : error;
}

function refused(thrown: unknown): Response {
  const status = thrown instanceof Refusal ? thrown.status : STATUS[StudioError.from(thrown).code];
  return json(status, errorBody(thrown), thrown instanceof Refusal ? thrown.headers : {});
}

function errorBody(thrown: unknown): { error: { code: ErrorCode; message: string; retry: string } } {
  if (thrown instanceof Refusal) {
    return { error: { code: 'invalid_operation', message: thrown.message, retry: 'never' } };
  }
  const { code, message, retry } = StudioError.from(thrown);
  return { error: { code, message, retry } };
}

function json(status: number, value: unknown, headers: Record<string, string> = {}): Response {
  return new Response(JSON.stringify(value), {
    status,
    headers: { 'Content-Type': 'application/json; charset=utf-8', 'Cache-Control': 'no-store', ...headers },
  });
}
