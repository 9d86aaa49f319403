/**
 * One contract, four doors: the same cases through the page's own door, HTTP, the channel and the command line, with the same jobs, sentences and
 * bytes behind each. Then every example of docs/API.md, taken from the file and run, and who is kept out.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { expect, test, type BrowserContext, type Page } from '@playwright/test';
import { serveFolder } from '../cli/server.js';
import type { StudioError } from '../src/core/errors.ts';
import type { Job } from '../src/core/job.ts';
import { parseOperation } from '../src/core/operation.ts';
import type { Door } from '../src/jobs/door.ts';

test.use({ serviceWorkers: 'allow' });

const PROJECT = resolve(import.meta.dirname, '..');
const DIST = join(PROJECT, 'dist');
const PARAMETERS = { prompt: 'a red circle', width: 64, height: 64, steps: 2, seed: '42' };
const OPERATION = { operation: 'image_generation', config: 'stable_diffusion', parameters: PARAMETERS };
const with_ = (parameters: object) => ({ ...OPERATION, parameters: { ...PARAMETERS, ...parameters } });

/** Refused when they are submitted. */
const REFUSED = [
  { ...OPERATION, operation: 'image generation' },
  { ...OPERATION, sed: 1 },
  { ...OPERATION, parameters: [] },
  'a red circle',
];
/** Accepted, and failed by the chunk that judges them. */
const FAILED: [object, string][] = [
  [with_({ steps: 0 }), 'steps must be a whole number from 1 to 150.'],
  [with_({ step: 3 }), 'The parameter object has an unknown field "step"; remove it or check its spelling.'],
];

interface Refusal {
  code: string;
  message: string;
}

/** One door, as the shared cases use it; every answer can be passed from a page to the test. */
interface Way {
  submit: (operation: unknown) => Promise<string | Refusal>;
  get: (id: string) => Promise<Job | Refusal>;
  list: () => Promise<Job[]>;
  cancel: (id: string) => Promise<Job | Refusal>;
  /** Every event of a job until it ends, without entities and operation, then the job itself. */
  follow: (id: string) => Promise<{ told: Pick<Job, 'state' | 'progress'>[]; job: Job }>;
  /** SHA-256 of a recorded file. */
  entity: (run: string, filename: string) => Promise<string>;
}

/** Creates the doors in a page; runs there. */
function makeWays(): void {
  const sha256 = async (blob: Blob) =>
    Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', await blob.arrayBuffer())), (byte) =>
      byte.toString(16).padStart(2, '0'),
    ).join('');
  const orRefusal = async <T>(work: () => Promise<T>): Promise<T | Refusal> => {
    try {
      return await work();
    } catch (thrown) {
      const { code, message } = thrown as Refusal;
      return { code, message };
    }
  };
  const brief = ({ state, progress }: Job) => ({ state, progress });

  const json = async (path: string, init?: RequestInit) => {
    const response = await fetch(path, init);
    const body = (await response.json()) as { error: Refusal };
    if (!response.ok) {
      throw Object.assign(new Error(body.error.message), { code: body.error.code });
    }
    return body as unknown;
  };
  const http: Way = {
    submit: (operation) =>
      orRefusal(async () => {
        const headers = { 'Content-Type': 'application/json' };
        const init = { method: 'POST', headers, body: JSON.stringify(operation) };
        return ((await json('/v1/jobs', init)) as { job_id: string }).job_id;
      }),
    get: (id) => orRefusal(async () => (await json(`/v1/jobs/${id}`)) as Job),
    list: async () => ((await json('/v1/jobs')) as { jobs: Job[] }).jobs,
    cancel: (id) => orRefusal(async () => (await json(`/v1/jobs/${id}`, { method: 'DELETE' })) as Job),
    follow: (id) =>
      new Promise((done) => {
        const told: Pick<Job, 'state' | 'progress'>[] = [];
        const events = new EventSource(`/v1/jobs/${id}/stream`);
        const take = ({ data }: MessageEvent<string>) => {
          const job = JSON.parse(data) as Job;
          told.push(brief(job));
          return job;
        };
        events.addEventListener('job', take);
        events.addEventListener('end', (event: MessageEvent<string>) => {
          events.close();
          done({ job: take(event), told });
        });
      }),
    entity: async (run, filename) => sha256(await (await fetch(`/v1/media/${run}/${filename}`)).blob()),
  };

  type Update = { type: string; job: Job; jobs: Job[]; blob: Blob; error: Refusal };
  const tasks = new BroadcastChannel('tasks:pending');
  const ask = (
    message: { id: string; type: string; [more: string]: unknown },
    until: string[],
    onUpdate?: (update: Update) => void,
  ) =>
    new Promise<Update>((done, failed) => {
      const updates = new BroadcastChannel(`task_updates:${message.id}`);
      updates.onmessage = ({ data }: MessageEvent<Update>) => {
        onUpdate?.(data);
        if (data.type === 'error' || until.includes(data.type)) {
          updates.close();
          if (data.type === 'error') {
            const { code, message } = data.error;
            failed(Object.assign(new Error(message), { code }));
          } else {
            done(data);
          }
        }
      };
      tasks.postMessage(message);
    });
  const reply = () => crypto.randomUUID();
  const channel: Way = {
    submit: (operation) =>
      orRefusal(async () => (await ask({ type: 'submit', id: reply(), operation }, ['job', 'end'])).job.id),
    get: (id) => orRefusal(async () => (await ask({ type: 'follow', id }, ['job', 'end'])).job),
    list: async () => (await ask({ type: 'list', id: reply() }, ['jobs'])).jobs,
    cancel: (id) => orRefusal(async () => (await ask({ type: 'cancel', id }, ['job', 'end'])).job),
    follow: async (id) => {
      const told: Pick<Job, 'state' | 'progress'>[] = [];
      const { job } = await ask({ type: 'follow', id }, ['end'], (update) => told.push(brief(update.job)));
      return { told, job };
    },
    entity: async (run, filename) =>
      sha256((await ask({ type: 'entity', id: reply(), run, filename }, ['entity'])).blob),
  };

  const door = () => globalThis.darkroom as Door;
  const page: Way = {
    submit: (operation) => orRefusal(async () => (await door().submit(operation)).id),
    get: (id) => orRefusal(() => door().wait(id)),
    list: () => door().list(),
    cancel: (id) => orRefusal(() => door().cancel(id)),
    follow: async (id) => {
      const told: Pick<Job, 'state' | 'progress'>[] = [];
      door().follow(id, (job) => told.push(brief(job)));
      return { job: await door().wait(id), told };
    },
    entity: async (run, filename) => sha256(await door().entity(run, filename)),
  };
  Object.assign(globalThis, { ways: { page, HTTP: http, 'the channel': channel } });
}

type Call = <Name extends keyof Way>(name: Name, ...given: Parameters<Way[Name]>) => ReturnType<Way[Name]>;

function through(page: Page, way: string): Call {
  return (name, ...given) =>
    page.evaluate(
      ([of, method, words]) => {
        const { ways } = globalThis as unknown as {
          ways: Record<string, Record<string, (...args: unknown[]) => unknown>>;
        };
        return ways[of][method](...(words as unknown[]));
      },
      [way, name, given] as const,
    ) as ReturnType<Way[typeof name]>;
}

/** Resolves when the service worker controls this page. */
async function controlled(page: Page): Promise<void> {
  await page.evaluate(async () => {
    const { serviceWorker } = navigator;
    await serviceWorker.register('/service.worker.js');
    if (!serviceWorker.controller) {
      await new Promise((taken) => serviceWorker.addEventListener('controllerchange', taken, { once: true }));
    }
  });
}

/** One tab with Darkroom, which runs the jobs, and one with an unrelated page of the same origin. */
async function openBoth(context: BrowserContext, url: string): Promise<{ darkroom: Page; guest: Page }> {
  const darkroom = await context.newPage();
  await darkroom.goto(`${url}/?door=cli&backend=wasm`);
  await darkroom.waitForFunction(() => globalThis.darkroom !== undefined);
  await controlled(darkroom);
  const guest = await context.newPage();
  await guest.goto(`${url}/schemas/error.json`);
  for (const page of [darkroom, guest]) {
    await page.evaluate(makeWays);
  }
  return { darkroom, guest };
}

/** A square of 64 pixels as a PNG. */
function picture(page: Page): Promise<string> {
  return page.evaluate(async () => {
    const canvas = new OffscreenCanvas(64, 64);
    const context = canvas.getContext('2d') as OffscreenCanvasRenderingContext2D;
    context.fillStyle = 'red';
    context.fillRect(8, 8, 40, 40);
    const bytes = new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
    return `data:image/png;base64,${btoa(String.fromCharCode(...bytes))}`;
  });
}

interface Ended {
  code: number | null;
  out: string;
  err: string;
}

function execute(words: string[], cwd: string, input = ''): Promise<Ended> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, words, { cwd, env: { ...process.env, INIT_CWD: cwd } });
    const ended: Ended = { code: null, out: '', err: '' };
    child.stdout.on('data', (text: Buffer) => (ended.out += text.toString()));
    child.stderr.on('data', (text: Buffer) => (ended.err += text.toString()));
    child.once('error', failed);
    child.once('close', (code) => done({ ...ended, code }));
    child.stdin.end(input);
  });
}

const pictureOf = (job: Job) => job.entities.filter(({ type }) => type === 'output_image');
const sentenceOf = (operation: unknown): Refusal => {
  try {
    parseOperation(operation);
  } catch (error) {
    const { code, message } = error as StudioError;
    return { code, message };
  }
  throw new Error('It is valid.');
};

test.describe.serial('the same cases', () => {
  let context: BrowserContext;
  let darkroom: Page;
  let guest: Page;
  let stop: () => Promise<void>;
  let transform: object;
  /** Of the text-to-image and the image-to-image result, as the first door made them. */
  let reference: { words: string; picture: string } | null = null;

  const expectSame = (made: { words: string; picture: string }) => {
    reference ??= made;
    expect(made).toEqual(reference);
  };

  test.beforeAll(async ({ browser }) => {
    const { url, close } = await serveFolder(DIST);
    stop = close;
    context = await browser.newContext({ serviceWorkers: 'allow' });
    ({ darkroom, guest } = await openBoth(context, url));
    const image = await picture(guest);
    transform = { ...with_({ image, strength: 0.5 }), operation: 'image_transform' };
  });
  test.afterAll(async () => {
    await context.close();
    await stop();
  });

  for (const way of ['page', 'HTTP', 'the channel']) {
    test(`through ${way}`, async () => {
      const ask = through(way === 'page' ? darkroom : guest, way);
      const submit = async (operation: unknown) => {
        const id = await ask('submit', operation);
        expect(id).toEqual(expect.any(String));
        return id as string;
      };
      const made = { words: '', picture: '' };

      await test.step('two jobs run in their order; who follows sees one wait, run and end', async () => {
        const long = await submit(with_({ steps: 12, seed: '1' }));
        const id = await submit(OPERATION);
        const following = ask('follow', id);
        const [first, { told, job }] = await Promise.all([ask('follow', long), following]);
        expect(job).toMatchObject({ id, state: 'completed', error: null, attempts: 1 });
        expect(first.job.finishedAt).toBeLessThanOrEqual(job.startedAt ?? 0);
        const states = told.map(({ state }) => state).filter((state, at, all) => state !== all[at - 1]);
        expect(states).toEqual(['pending', 'running', 'completed']);
        const fractions = first.told.flatMap(({ progress }) => (progress ? [progress.fraction] : []));
        expect(fractions.length).toBeGreaterThan(5);
        expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
        const [{ run, filename, sha256 }] = pictureOf(job);
        expect(await ask('entity', run, filename)).toBe(sha256);
        made.words = sha256;
        expect((await ask('list')).map((one) => one.id)).toEqual(expect.arrayContaining([long, id]));
      });

      await test.step('a picture to start from', async () => {
        const { job } = await ask('follow', await submit(transform));
        expect(job.error).toBeNull();
        made.picture = pictureOf(job)[0].sha256;
        expectSame(made);
      });

      await test.step('what is not valid has the same code and sentence', async () => {
        for (const operation of REFUSED) {
          expect(await ask('submit', operation)).toEqual(sentenceOf(operation));
        }
        expect(await ask('submit', { ...OPERATION, operation: 'image_generatoin' })).toEqual({
          code: 'invalid_operation',
          message: expect.stringMatching(/^operation must be one of .*image_generation.*; it is "image_generatoin"\.$/),
        });
        for (const [operation, message] of FAILED) {
          const { job } = await ask('follow', await submit(operation));
          expect(job).toMatchObject({ state: 'failed', error: { code: 'invalid_operation', message } });
        }
      });

      await test.step('an unknown job', async () => {
        const refusals = [await ask('get', 'nobody'), await ask('cancel', 'nobody')];
        for (const refusal of refusals) {
          expect(refusal).toMatchObject({
            code: 'invalid_operation',
            message: expect.stringContaining('"nobody"'),
          });
        }
      });

      await test.step('a running job and a waiting one are cancelled', async () => {
        const [running, waiting] = [await submit(with_({ steps: 150 })), await submit(OPERATION)];
        expect(await ask('cancel', waiting)).toMatchObject({ id: waiting, state: 'cancelled' });
        await ask('cancel', running);
        expect((await ask('follow', running)).job).toMatchObject({ id: running, state: 'cancelled' });
      });
    });
  }

  test('through the command line', async () => {
    const info = test.info();
    const folder = info.outputPath('cli');
    mkdirSync(folder, { recursive: true });
    const run = async (operation: unknown) => {
      writeFileSync(join(folder, 'operation.json'), JSON.stringify(operation));
      return execute(
        [join(PROJECT, 'cli', 'generate.js'), 'operation.json', '--out', 'out', '--backend', 'wasm'],
        folder,
      );
    };
    const shaOf = ({ code, out, err }: Ended) => {
      expect(code, err).toBe(0);
      const lines = out
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as { entity_type: string; sha256: string; file: string });
      const found = lines.find(({ entity_type }) => entity_type === 'output_image');
      const bytes = readFileSync(found?.file ?? '');
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(found?.sha256);
      return found?.sha256 ?? '';
    };
    const words = await run(OPERATION);
    expect(words.err).toMatch(/sample 1\/2/);
    expectSame({ words: shaOf(words), picture: shaOf(await run(transform)) });
    // What is refused at once: e2e/journeys/command_line.spec.ts.
    const [operation, message] = FAILED[0];
    const { code, out, err } = await run(operation);
    expect([code, out, err.trimEnd().split('\n').at(-1)]).toEqual([2, '', `invalid_operation: ${message}`]);
  });

  test('HTTP takes forms, keys and ranges, and says what it refuses', async () => {
    const seen = await guest.evaluate(
      async ([operation, image, words]) => {
        const form = new FormData();
        form.set('operation', JSON.stringify(operation));
        form.set('image', await (await fetch(image)).blob());
        const headers = { 'Idempotency-Key': 'doors-1' };
        const post = () => fetch('/v1/jobs', { method: 'POST', body: form, headers });
        const accepted = await post();
        const again = (await (await post()).json()) as { job_id: string };
        const { ways } = globalThis as unknown as { ways: { HTTP: Way } };
        const { job } = await ways.HTTP.follow('doors-1');
        const { run, filename } = job.entities.find(({ type }) => type === 'output_image') as Job['entities'][0];
        const part = await fetch(`/v1/media/${run}/${filename}`, { headers: { Range: 'bytes=1-3' } });
        const statuses: number[] = [];
        for (const [method, path, type] of [
          ['GET', '/v1/nothing', ''],
          ['PUT', '/v1/jobs', ''],
          ['POST', '/v1/jobs', 'text/plain'],
          ['GET', `/v1/media/${run}/99_none.png`, ''],
          ['GET', '/v1/media/..%2f..%2f/journal', ''],
        ]) {
          const init = { method, headers: { 'Content-Type': type }, ...(type ? { body: words } : {}) };
          const response = await fetch(path, init);
          statuses.push(response.status);
        }
        return {
          accepted: [accepted.status, accepted.headers.get('Location'), again.job_id],
          job,
          part: [
            part.status,
            part.headers.get('Content-Type'),
            part.headers.get('Content-Range')?.replace(/\d+$/, ''),
            await part.text(),
          ],
          statuses,
        };
      },
      [
        { ...OPERATION, operation: 'image_transform', parameters: { ...PARAMETERS, strength: 0.5 } },
        (transform as { parameters: { image: string } }).parameters.image,
        'x',
      ] as const,
    );
    expect(seen.accepted).toEqual([202, '/v1/jobs/doors-1', 'doors-1']);
    expect(seen.job.operation.parameters.image).toMatchObject({ type: 'image/png' });
    expect(pictureOf(seen.job)[0].sha256).toBe(reference?.picture);
    expect(seen.part).toEqual([206, 'image/png', 'bytes 1-3/', 'PNG']);
    expect(seen.statuses).toEqual([404, 405, 415, 404, 404]);
  });

  test('files are read while their run is written, and who follows goes on when the service worker was stopped', async () => {
    await guest.evaluate(
      async (operation) => {
        const { ways } = globalThis as unknown as { ways: { HTTP: Way } };
        const id = (await ways.HTTP.submit(operation)) as string;
        const seen = { id, opened: 0, steps: 0, run: '', end: '' };
        const follow = () => {
          const events = new EventSource(`/v1/jobs/${id}/stream`);
          events.addEventListener('open', () => (seen.opened += 1));
          events.addEventListener('error', () => {
            // As docs/API.md says, Chromium gives up on a stream whose service worker is gone.
            if (events.readyState === EventSource.CLOSED) {
              follow();
            }
          });
          events.addEventListener('job', ({ data }: MessageEvent<string>) => {
            const { run, progress } = JSON.parse(data) as Job;
            seen.run = run ?? '';
            seen.steps = progress?.stage === 'sample' ? progress.step : 0;
          });
          events.addEventListener('end', ({ data }: MessageEvent<string>) => {
            events.close();
            seen.end = (JSON.parse(data) as Job).state;
          });
        };
        follow();
        Object.assign(globalThis, { seen });
      },
      with_({ steps: 150, width: 128, height: 128 }),
    );
    type Seen = { id: string; opened: number; steps: number; run: string; end: string };
    const seen = () => guest.evaluate(() => (globalThis as unknown as { seen: Seen }).seen);
    await expect.poll(async () => (await seen()).steps).toBeGreaterThan(0);
    const { id, run } = await seen();
    const [status, operation] = await guest.evaluate(async (path) => {
      const response = await fetch(path);
      return [response.status, (await response.json()) as unknown] as const;
    }, `/v1/media/${run}/01_input.json`);
    expect([status, operation]).toEqual([200, expect.objectContaining({ operation: 'image_generation' })]);

    const devtools = await context.newCDPSession(guest);
    await devtools.send('ServiceWorker.enable');
    await devtools.send('ServiceWorker.stopAllWorkers');
    await expect.poll(async () => (await seen()).opened).toBe(2);
    await through(darkroom, 'page')('cancel', id);
    await expect.poll(async () => (await seen()).end).toBe('cancelled');
  });

  test('of two tabs of Darkroom one obeys the channel, and the other one when that is closed', async () => {
    const second = await context.newPage();
    await second.goto(`${new URL(darkroom.url()).origin}/?door=cli&backend=wasm`);
    await second.waitForFunction(() => globalThis.darkroom !== undefined);
    const ask = through(guest, 'the channel');
    const before = (await ask('list')).length;
    const id = (await ask('submit', OPERATION)) as string;
    expect((await ask('follow', id)).job.state).toBe('completed');
    expect(await ask('list')).toHaveLength(before + 1);
    await darkroom.close();
    darkroom = second;
    // Nobody listens until the other tab has taken over, so an unanswered request is repeated.
    const { state } = await guest.evaluate(async (operation) => {
      const updates = new BroadcastChannel('task_updates:handed-over');
      const tasks = new BroadcastChannel('tasks:pending');
      const say = () => tasks.postMessage({ type: 'submit', id: 'handed-over', operation });
      const timer = setInterval(say, 200);
      say();
      return new Promise<Job>((done) => {
        updates.onmessage = ({ data }: MessageEvent<{ type: string; job: Job }>) => {
          if (data.type === 'end') {
            clearInterval(timer);
            done(data.job);
          }
        };
      });
    }, OPERATION);
    expect(state).toBe('completed');
    expect((await ask('list')).filter((job) => job.id === 'handed-over')).toHaveLength(1);
    expect(await ask('list')).toHaveLength(before + 2);
  });

  test('a form and a frame of another site reach nothing', async () => {
    const home = new URL(guest.url());
    const jobs = (await through(guest, 'HTTP')('list')).length;
    const foreign = createServer((_, response) => {
      response.setHeader('Content-Type', 'text/html');
      response.end(
        `<iframe src="${home.origin}/?door=cli"></iframe><form method="post" enctype="multipart/form-data" action="${home.origin}/v1/jobs">` +
          `<textarea name="operation">${JSON.stringify(OPERATION)}</textarea></form>`,
      );
    });
    await new Promise<void>((listening) => foreign.listen(0, '127.0.0.1', listening));
    try {
      const page = await context.newPage();
      // A different site: the host name differs, not just the port.
      await page.goto(`http://localhost:${(foreign.address() as AddressInfo).port}/`);
      expect(page.frames().at(-1)?.url()).not.toContain(home.origin);
      const read = (path: string) =>
        page.evaluate(
          (url) =>
            fetch(url).then(
              () => 'read',
              () => 'refused',
            ),
          home.origin + path,
        );
      expect(await read('/v1/jobs')).toBe('refused');
      expect(await read('/schemas/operation.json')).toBe('refused');
      const [answer] = await Promise.all([
        page.waitForResponse(
          (response) => response.url() === `${home.origin}/v1/jobs` && response.request().method() === 'POST',
        ),
        page.evaluate(() => document.querySelector('form')?.submit()),
      ]);
      expect(answer.status()).toBe(403);
      await page.close();
    } finally {
      foreign.closeAllConnections();
      foreign.close();
    }
    expect(await through(guest, 'HTTP')('list')).toHaveLength(jobs);
  });
});

/** The blocks of docs/API.md that have a file name, by that name. */
function examples(): Map<string, string> {
  const text = readFileSync(join(PROJECT, 'docs', 'API.md'), 'utf8');
  return new Map([...text.matchAll(/^```\w+ (\S+)\n([^]*?)^```$/gm)].map(([, name, code]) => [name, code]));
}

test.describe('the examples of docs/API.md', () => {
  const files = examples();
  let site: string;
  let host: { url: string; close: () => Promise<void> };

  test.beforeAll(async () => {
    site = mkdtempSync(join(tmpdir(), 'darkroom-examples-'));
    readdirSync(DIST).forEach((name) => symlinkSync(join(DIST, name), join(site, name), 'junction'));
    files.forEach((code, name) => writeFileSync(join(site, name), code));
    host = await serveFolder(site);
  });
  test.afterAll(async () => {
    await host.close();
    rmSync(site, { recursive: true, force: true });
  });

  const expectPicture = async (page: Page) => {
    await expect(page.locator('#state')).toHaveText('completed', { timeout: 60_000 });
    await expect(page.locator('#picture')).toHaveJSProperty('naturalWidth', 64);
  };

  test('are all there', () => {
    expect([...files.keys()]).toEqual([
      'operation.json',
      'fetch.html',
      'fetch.js',
      'channel.html',
      'channel.js',
      'embed.html',
      'embed.js',
      'script.js',
    ]);
  });

  test('fetch and the channel, beside Darkroom in another tab', async ({ context }) => {
    const darkroom = await context.newPage();
    await darkroom.goto(`${host.url}/?door=cli&backend=wasm`);
    await darkroom.waitForFunction(() => globalThis.darkroom !== undefined);
    for (const name of ['fetch', 'channel']) {
      const page = await context.newPage();
      await page.goto(`${host.url}/${name}.html`);
      await expectPicture(page);
      await page.close();
    }
  });

  test('Darkroom in a frame', async ({ page }) => {
    await page.goto(`${host.url}/embed.html`);
    await expectPicture(page);
  });

  test('the Playwright script', async () => {
    const info = test.info();
    const folder = info.outputPath('script');
    mkdirSync(folder, { recursive: true });
    symlinkSync(join(PROJECT, 'cli'), join(folder, 'cli'), 'junction');
    symlinkSync(join(PROJECT, 'node_modules'), join(folder, 'node_modules'), 'junction');
    const words = ['--input-type=module', '-', host.url];
    const { code, out, err } = await execute(words, folder, files.get('script.js'));
    expect(code, err).toBe(0);
    const sha256 = createHash('sha256')
      .update(readFileSync(join(folder, 'picture.png')))
      .digest('hex');
    expect(out).toBe(`completed ${sha256}\n`);
  });

  test('the command line, with the operation as it stands there', async () => {
    const info = test.info();
    const folder = info.outputPath('generate');
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'operation.json'), files.get('operation.json') ?? '');
    const line =
      readFileSync(join(PROJECT, 'docs', 'API.md'), 'utf8').match(/^npm run --silent generate -- (.*)$/m)?.[1] ?? '';
    const { code, out, err } = await execute([join(PROJECT, 'cli', 'generate.js'), ...line.split(' ')], folder);
    expect(code, err).toBe(0);
    expect(
      out
        .trimEnd()
        .split('\n')
        .map((text) => (JSON.parse(text) as { entity_type: string }).entity_type),
    ).toContain('output_image');
  });
});

test('the command line takes a checkpoint of one file, and says by name what it used', async () => {
  const folder = test.info().outputPath('single');
  mkdirSync(folder, { recursive: true });
  const parameters = { prompt: 'a cat', width: 64, height: 64, steps: 1, guidance_scale: 0, seed: '1' };
  const operation = { operation: 'image_generation', config: 'stable_diffusion', parameters };
  writeFileSync(join(folder, 'operation.json'), JSON.stringify(operation));
  const file = join(PROJECT, 'test', 'single_files', 'sd1.safetensors');
  const words = ['operation.json', '--out', 'out', '--backend', 'wasm', '--checkpoint', file];
  const { code, out, err } = await execute([join(PROJECT, 'cli', 'generate.js'), ...words], folder);
  expect(code, err).toBe(0);
  const written = out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { entity_type: string; filename: string });
  expect(written.at(-1)?.entity_type).toBe('output_image');
  const config = written.find(({ entity_type }) => entity_type === 'config');
  const plan = readdirSync(join(folder, 'out'), { recursive: true })
    .map(String)
    .find((path) => path.endsWith(config?.filename ?? 'config.json'));
  expect(readFileSync(join(folder, 'out', plan ?? ''), 'utf8')).toContain('sd1');
});
