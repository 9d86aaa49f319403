/**
 * The doors without a browser: the same cases through the routes and the channel over a fake queue; what they refuse and how; 10,000 mutants
 * at each gate; and the served JSON Schema against the code it is generated from. In a browser: e2e/doors.spec.ts.
 */
import { readFileSync } from 'node:fs';
import { runInNewContext } from 'node:vm';
import Ajv from 'ajv';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { documents, operationDocument } from '../schemas/documents.ts';
import { DEFAULT_CHECKPOINT } from '../src/core/builtin_checkpoints.ts';
import { StudioError } from '../src/core/errors.ts';
import type { Job } from '../src/core/job.ts';
import type { CheckpointSummary } from '../src/core/model.ts';
import { parseOperation, withoutPictures } from '../src/core/operation.ts';
import { plan } from '../src/core/plan.ts';
import { TASKS_CHANNEL, UPDATES_CHANNEL, serveChannel } from '../src/jobs/channel.ts';
import type { ChannelSurroundings, TaskChannel, TaskUpdate } from '../src/jobs/channel.ts';
import { MAX_BODY_BYTES } from '../src/jobs/request_body.ts';
import { JobRoutes } from '../src/jobs/routes.ts';
import { isFinished } from '../src/jobs/state.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { FakeJobs } from './fake_jobs.ts';

const ORIGIN = 'http://darkroom.test';
const PICTURE = 'data:image/png;base64,AAAA';
const PARAMETERS = { prompt: 'a boat', steps: 3, seed: '42' };
const OPERATION = { operation: 'image_generation', config: 'stable_diffusion', parameters: PARAMETERS };
const LONG = { ...OPERATION, parameters: { ...PARAMETERS, steps: 1e6 } };

const ask = (
  routes: JobRoutes,
  method: string,
  path: string,
  body?: BodyInit | null,
  headers: Record<string, string> = {},
): Promise<Response> => {
  const answer = routes.answer(new Request(ORIGIN + path, { method, headers, ...(body ? { body } : {}) }));
  if (!answer) {
    throw new Error(`${path} is none of the routes.`);
  }
  return answer;
};
const JSON_TYPE = { 'Content-Type': 'application/json' };
const post = (routes: JobRoutes, value: unknown, headers: Record<string, string> = {}) =>
  ask(routes, 'POST', '/v1/jobs', JSON.stringify(value), { ...JSON_TYPE, ...headers });
const bodyOf = async <T>(response: Promise<Response>) => (await (await response).json()) as T;

/** The named channels of one origin, in memory: a message reaches all open ones except its sender, cloned, in a later turn. */
class Ether implements ChannelSurroundings {
  readonly #open = new Map<string, Set<TaskChannel>>();
  #last: Promise<unknown> = Promise.resolve();

  open = (name: string): TaskChannel => {
    const all = this.#open.get(name) ?? new Set<TaskChannel>();
    const channel: TaskChannel = {
      onmessage: null,
      postMessage: (message) => {
        const data: unknown = structuredClone(message);
        setImmediate(() => [...all].forEach((one) => one !== channel && one.onmessage?.({ data })));
      },
      close: () => all.delete(channel),
    };
    this.#open.set(name, all.add(channel));
    return channel;
  };

  alone = (_: string, signal: AbortSignal, work: () => Promise<void>): Promise<unknown> => {
    const mine = this.#last.then(() => (signal.aborted ? undefined : work()));
    this.#last = mine;
    return mine;
  };

  get openChannels(): number {
    return [...this.#open.values()].reduce((sum, { size }) => sum + size, 0);
  }

  /** Sends a message and returns every answer up to one of these types. */
  async say(message: { id: string } & Record<string, unknown>, ...until: TaskUpdate['type'][]): Promise<TaskUpdate[]> {
    const updates = this.open(UPDATES_CHANNEL + message.id);
    const tasks = this.open(TASKS_CHANNEL);
    const told: TaskUpdate[] = [];
    await new Promise<void>((enough) => {
      updates.onmessage = ({ data }) => {
        const update = data as TaskUpdate;
        told.push(update);
        if (update.type === 'error' || until.includes(update.type)) {
          enough();
        }
      };
      tasks.postMessage(message);
    });
    updates.close();
    tasks.close();
    return told;
  }

  async answer<Type extends TaskUpdate['type']>(
    message: { id: string } & Record<string, unknown>,
    type: Type,
  ): Promise<Extract<TaskUpdate, { type: Type }>> {
    const last = (await this.say(message, type)).at(-1) as TaskUpdate;
    if (last.type === 'error') {
      throw StudioError.fromData(last.error);
    }
    return last as Extract<TaskUpdate, { type: Type }>;
  }
}

/** One door, as the shared cases use it. */
interface Way {
  submit: (operation: unknown) => Promise<string>;
  get: (id: string) => Promise<Job>;
  list: () => Promise<Job[]>;
  cancel: (id: string) => Promise<Job>;
  repeat: (id: string) => Promise<string>;
  /** Every event of a job until its end. */
  follow: (id: string) => Promise<Job[]>;
  entity: (run: string, filename: string) => Promise<string>;
}

async function orError(response: Response): Promise<Response> {
  if (!response.ok) {
    const { error } = (await response.json()) as { error: { code: 'internal'; message: string; retry: 'never' } };
    throw StudioError.fromData(error);
  }
  return response;
}

/** A stream's events, as an EventSource reads them. */
async function eventsOf(response: Response): Promise<{ event: string; id: string; data: Job }[]> {
  const blocks = (await response.text()).split('\n\n').filter((block) => block.includes('data: '));
  return blocks.map((block) => {
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1] ?? '';
    return { event: field('event'), id: field('id'), data: JSON.parse(field('data')) as Job };
  });
}

function overRoutes(jobs: FakeJobs): Way {
  const routes = new JobRoutes(jobs, { base: '/' });
  const asked = async (method: string, path: string) => orError(await ask(routes, method, path));
  const idOf = async (response: Response) => ((await response.json()) as { job_id: string }).job_id;
  return {
    submit: async (operation) => idOf(await orError(await post(routes, operation))),
    get: async (id) => (await (await asked('GET', `/v1/jobs/${id}`)).json()) as Job,
    list: async () => ((await (await asked('GET', '/v1/jobs')).json()) as { jobs: Job[] }).jobs,
    cancel: async (id) => (await (await asked('DELETE', `/v1/jobs/${id}`)).json()) as Job,
    repeat: async (id) => idOf(await asked('POST', `/v1/jobs/${id}/repeat`)),
    follow: async (id) => (await eventsOf(await asked('GET', `/v1/jobs/${id}/stream`))).map(({ data }) => data),
    entity: async (run, filename) => (await asked('GET', `/v1/media/${run}/${filename}`)).text(),
  };
}

function overChannel(jobs: FakeJobs): Way {
  const ether = new Ether();
  serveChannel(jobs, ether);
  const reply = () => crypto.randomUUID();
  return {
    submit: async (operation) => (await ether.answer({ type: 'submit', id: reply(), operation }, 'job')).job.id,
    get: async (id) => {
      const told = (await ether.say({ type: 'follow', id }, 'job', 'end'))[0];
      if (told.type === 'error') {
        throw StudioError.fromData(told.error);
      }
      return (told as { job: Job }).job;
    },
    list: async () => (await ether.answer({ type: 'list', id: reply() }, 'jobs')).jobs,
    cancel: async (id) => (await ether.answer({ type: 'cancel', id }, 'end')).job,
    repeat: async (id) => (await ether.answer({ type: 'repeat', id: reply(), job_id: id }, 'job')).job.id,
    follow: async (id) =>
      (await ether.say({ type: 'follow', id }, 'end')).map((one) => {
        if (one.type === 'error') {
          throw StudioError.fromData(one.error);
        }
        return (one as { job: Job }).job;
      }),
    entity: async (run, filename) => {
      const { blob } = await ether.answer({ type: 'entity', id: reply(), run, filename }, 'entity');
      return blob.text();
    },
  };
}

const outcomeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => null,
    (thrown: unknown) => {
      const { code, message } = StudioError.from(thrown);
      return { code, message };
    },
  );

describe.each([
  ['HTTP', overRoutes],
  ['the channel', overChannel],
])('over %s', (_, over) => {
  test('a valid operation becomes a job, runs, and leaves its files', async () => {
    const way = over(new FakeJobs());
    const id = await way.submit(OPERATION);
    const told = await way.follow(id);
    expect(told.at(-1)).toMatchObject({ id, state: 'completed', operation: parseOperation(OPERATION) });
    const [{ run, filename }] = told.at(-1)?.entities ?? [];
    expect(await way.entity(run, filename)).toBe('["a boat","42"]');
  });

  test('who follows sees it wait, run and end, with progress that never goes back', async () => {
    const jobs = new FakeJobs();
    const way = over(jobs);
    await jobs.pause(true);
    const id = await way.submit(OPERATION);
    const following = way.follow(id);
    for (let turn = 0; turn < 20; turn++) {
      await new Promise((turned) => setImmediate(turned));
    }
    await jobs.pause(false);
    const told = await following;
    expect([...new Set(told.map(({ state }) => state))]).toEqual(['pending', 'running', 'completed']);
    const fractions = told.flatMap(({ progress }) => (progress ? [progress.fraction] : []));
    expect(fractions.length).toBeGreaterThan(2);
    expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
    expect(jobs.followers(id)).toBe(0);
  });

  test('what is not valid is refused with the code and the sentence of the gate', async () => {
    const way = over(new FakeJobs());
    for (const bad of [
      null,
      'words',
      [],
      {},
      { ...OPERATION, operation: 'image generation' },
      { ...OPERATION, sed: 1 },
      { ...OPERATION, config: '' },
      { ...OPERATION, parameters: 'words' },
      { ...OPERATION, priority: 'urgent' },
    ]) {
      const expected = await outcomeOf(Promise.resolve().then(() => parseOperation(bad)));
      expect(expected?.code).toBe('invalid_operation');
      expect(await outcomeOf(way.submit(bad)), JSON.stringify(bad)).toEqual(expected);
    }
    expect(await way.list()).toEqual([]);
  });

  test('an unknown job, run or file is said to be unknown', async () => {
    const way = over(new FakeJobs());
    const unknown = { code: 'invalid_operation', message: 'There is no job "nobody".' };
    for (const action of [way.get, way.cancel, way.repeat, way.follow]) {
      expect(await outcomeOf(action('nobody'))).toEqual(unknown);
    }
    expect(await outcomeOf(way.entity('run_1', '01_x.png'))).toMatchObject({ code: 'invalid_operation' });
  });

  test('a running job and a waiting one are cancelled, and an ended one stays as it is', async () => {
    const way = over(new FakeJobs());
    const [first, second] = [await way.submit(LONG), await way.submit(OPERATION)];
    expect(await way.cancel(second)).toMatchObject({ id: second, state: 'cancelled' });
    expect(await way.cancel(first)).toMatchObject({ id: first, state: 'cancelled' });
    const third = await way.submit(OPERATION);
    await way.follow(third);
    expect(await way.cancel(third)).toMatchObject({ id: third, state: 'completed' });
  });

  test('two jobs run in their order, and one is repeated', async () => {
    const jobs = new FakeJobs();
    const way = over(jobs);
    await jobs.pause(true);
    const ids = [await way.submit(OPERATION), await way.submit(OPERATION)];
    expect((await way.list()).map(({ id }) => id)).toEqual(ids);
    await jobs.pause(false);
    const ended = await Promise.all(ids.map((id) => jobs.wait(id)));
    expect(ended[0].finishedAt).toBeLessThanOrEqual(ended[1].startedAt ?? 0);
    const again = await way.repeat(ids[0]);
    expect(ids).not.toContain(again);
    expect((await way.follow(again)).at(-1)).toMatchObject({ state: 'completed', operation: ended[0].operation });
  });

  test('of a picture only type and size are told', async () => {
    const jobs = new FakeJobs();
    const way = over(jobs);
    const id = await way.submit({
      ...OPERATION,
      operation: 'image_transform',
      parameters: { ...PARAMETERS, image: PICTURE },
    });
    const told = [...(await way.follow(id)), ...(await way.list()), await way.get(id)];
    expect(told.length).toBeGreaterThan(2);
    for (const { operation } of told) {
      expect(operation.parameters).toEqual({ ...PARAMETERS, image: { type: 'image/png', bytes: 3 } });
    }
    expect((await jobs.get(id)).operation.parameters.image).toBe(PICTURE);
  });
});

describe('HTTP', () => {
  const open = () => {
    const jobs = new FakeJobs();
    return { jobs, routes: new JobRoutes(jobs, { base: '/', heartbeatMs: 5 }) };
  };

  test('accepting says where the job is', async () => {
    const { routes } = open();
    const response = await post(routes, OPERATION);
    const { job_id } = (await response.json()) as { job_id: string };
    expect(response.status).toBe(202);
    expect(response.headers.get('Location')).toBe(`/v1/jobs/${job_id}`);
  });

  test('the same Idempotency-Key submits once', async () => {
    const { routes } = open();
    const key = { 'Idempotency-Key': 'mine-1' };
    expect(await bodyOf(post(routes, OPERATION, key))).toEqual({ job_id: 'mine-1' });
    expect(await bodyOf(post(routes, OPERATION, key))).toEqual({ job_id: 'mine-1' });
    expect((await bodyOf<{ jobs: Job[] }>(ask(routes, 'GET', '/v1/jobs'))).jobs).toHaveLength(1);
    expect((await post(routes, OPERATION, { 'Idempotency-Key': '../1' })).status).toBe(400);
  });

  test('only addresses below v1 of its own folder are answered', () => {
    const routes = new JobRoutes(new FakeJobs(), { base: '/some/where/' });
    for (const path of ['/', '/v1/jobs', '/some/where/', '/some/where/v10/jobs', '/some/where/assets/v1/jobs']) {
      expect(routes.answer(new Request(ORIGIN + path)), path).toBeNull();
    }
    expect(routes.answer(new Request(`${ORIGIN}/some/where/v1/jobs`))).toBeInstanceOf(Promise);
  });

  test.each<[string, string, string, BodyInit | null, Record<string, string>, number]>([
    ['no such address', 'GET', '/v1/nothing', null, {}, 404],
    ['nothing behind v1', 'GET', '/v1', null, {}, 404],
    ['a job that is not known', 'GET', '/v1/jobs/x', null, {}, 404],
    ['a stream of one', 'GET', '/v1/jobs/x/stream', null, {}, 404],
    ['a file that is not known', 'GET', '/v1/media/run_1/01_x.png', null, {}, 404],
    ['a broken address', 'GET', '/v1/jobs/%E0%A4%A', null, {}, 400],
    ['another method', 'PUT', '/v1/jobs', '{}', JSON_TYPE, 405],
    ['a method of Object', 'constructor', '/v1/jobs', null, {}, 405],
    ['no JSON', 'POST', '/v1/jobs', '{"operation":', JSON_TYPE, 400],
    ['no UTF-8', 'POST', '/v1/jobs', new Uint8Array([0x22, 0xff, 0x22]), JSON_TYPE, 400],
    ['no type', 'POST', '/v1/jobs', new Uint8Array([1]), {}, 415],
    ['text', 'POST', '/v1/jobs', JSON.stringify(OPERATION), { 'Content-Type': 'text/plain' }, 415],
    ['a form as links have it', 'POST', '/v1/jobs', new URLSearchParams({ operation: '{}' }), {}, 415],
    ['a form without its boundary', 'POST', '/v1/jobs', 'x', { 'Content-Type': 'multipart/form-data' }, 400],
    ['too much', 'POST', '/v1/jobs', new Uint8Array(MAX_BODY_BYTES + 1), JSON_TYPE, 413],
    ['a change of nothing', 'PATCH', '/v1/queue', '{}', JSON_TYPE, 400],
    ['a change of something else', 'PATCH', '/v1/queue', '{"isPaused":true,"x":1}', JSON_TYPE, 400],
    ['a change as text', 'PATCH', '/v1/queue', '{"isPaused":true}', { 'Content-Type': 'text/plain' }, 415],
    ['an unknown job for ever', 'PATCH', '/v1/queue', '{"forever":"x"}', JSON_TYPE, 400],
  ])('%s is refused with a sentence', async (_, method, path, body, headers, status) => {
    const response = await ask(open().routes, method, path, body, headers);
    const { error } = (await response.json()) as { error: { code: string; message: string; retry: string } };
    expect(response.status).toBe(status);
    expect(Object.keys(error)).toEqual(['code', 'message', 'retry']);
    expect(error).toMatchObject({ code: 'invalid_operation', retry: 'never' });
    expect(error.message).toMatch(/^[A-Z"a-z/].+\.$/s);
    expect(response.headers.get('Content-Type')).toBe('application/json; charset=utf-8');
  });

  test('405 says what is possible', async () => {
    const { routes } = open();
    const allow = async (path: string) => (await ask(routes, 'PUT', path)).headers.get('Allow');
    expect(await allow('/v1/jobs')).toBe('GET, HEAD, POST, DELETE');
    expect(await allow('/v1/jobs/x')).toBe('GET, HEAD, PATCH, DELETE');
    expect(await allow('/v1/jobs/x/repeat')).toBe('POST');
    expect(await allow('/v1/queue')).toBe('GET, HEAD, PATCH');
  });

  test.each([
    ['storage_full', 507],
    ['storage_unavailable', 503],
    ['checkpoint_incomplete', 409],
    ['does_not_fit', 422],
    ['origin_unavailable', 502],
    ['internal', 500],
  ] as const)('%s is %d', async (code, status) => {
    const jobs = new FakeJobs();
    const cause = new Error('hf_secret');
    jobs.submit = () => Promise.reject(new StudioError(code, 'It went wrong.', { retry: 'same', cause }));
    const response = await post(new JobRoutes(jobs, { base: '/' }), OPERATION);
    expect(response.status).toBe(status);
    expect(await response.json()).toEqual({ error: { code, message: 'It went wrong.', retry: 'same' } });
  });

  test('pages of other origins are refused, in whatever they say', async () => {
    const { routes, jobs } = open();
    const foreign: Record<string, string>[] = [
      { Origin: 'https://evil.example' },
      { Origin: 'null' },
      { Origin: 'http://darkroom.test:81' },
      { 'Sec-Fetch-Site': 'cross-site' },
      { 'Sec-Fetch-Site': 'same-site' },
    ];
    for (const headers of foreign) {
      for (const [method, path] of [
        ['POST', '/v1/jobs'],
        ['GET', '/v1/jobs'],
        ['DELETE', '/v1/jobs'],
        ['GET', '/v1/nothing'],
      ]) {
        const body = method === 'POST' ? JSON.stringify(OPERATION) : null;
        const response = await ask(routes, method, path, body, { ...JSON_TYPE, ...headers });
        expect(response.status, `${JSON.stringify(headers)} ${method} ${path}`).toBe(403);
      }
    }
    const own = { Origin: ORIGIN, 'Sec-Fetch-Site': 'same-origin' };
    expect((await post(routes, OPERATION, own)).status).toBe(202);
    expect((await ask(routes, 'GET', '/v1/jobs', null, { 'Sec-Fetch-Site': 'none' })).status).toBe(200);
    expect(await jobs.list()).toHaveLength(1);
  });

  test('a form that navigates may look, and change nothing', async () => {
    const { routes, jobs } = open();
    const form = new FormData();
    form.set('operation', JSON.stringify(OPERATION));
    const navigation = (method: string, init: RequestInit = {}) => {
      const request = new Request(`${ORIGIN}/v1/jobs`, { method, ...init });
      Object.defineProperty(request, 'mode', { value: 'navigate' });
      return routes.answer(request);
    };
    expect((await navigation('POST', { body: form }))?.status).toBe(403);
    expect((await navigation('GET'))?.status).toBe(200);
    expect(await jobs.list()).toEqual([]);
  });

  describe('a form', () => {
    const send = async (...fields: [string, string | Blob][]) => {
      const { routes, jobs } = open();
      const form = new FormData();
      fields.forEach(([name, value]) => form.append(name, value));
      const response = await ask(routes, 'POST', '/v1/jobs', form);
      return { response, jobs };
    };
    const TRANSFORM = JSON.stringify({ ...OPERATION, operation: 'image_transform' });
    const file = new Blob([new Uint8Array(5)], { type: 'image/png' });

    test('brings the operation and its pictures', async () => {
      const { response, jobs } = await send(['operation', TRANSFORM], ['image', file], ['mask_image', file]);
      expect(response.status).toBe(202);
      const [{ operation }] = await jobs.list();
      const { image, mask_image } = operation.parameters as { image: Blob; mask_image: Blob };
      expect([image.size, image.type, mask_image.size]).toEqual([5, 'image/png', 5]);
      expect(withoutPictures(operation).parameters.image).toEqual({ type: 'image/png', bytes: 5 });
    });

    test('may bring the operation as a file', async () => {
      const operation = new Blob([TRANSFORM], { type: 'application/json' });
      expect((await send(['image', file], ['operation', operation])).response.status).toBe(202);
    });

    test.each<[string, [string, string | Blob][], RegExp]>([
      ['without an operation', [['image', file]], /one field "operation"/],
      [
        'with two',
        [
          ['operation', TRANSFORM],
          ['operation', TRANSFORM],
        ],
        /one field "operation"/,
      ],
      [
        'with a parameter as text',
        [
          ['operation', TRANSFORM],
          ['steps', '3'],
        ],
        /"steps" is text/,
      ],
      [
        'with a picture twice',
        [
          ['operation', TRANSFORM],
          ['image', file],
          ['image', file],
        ],
        /"image" is given twice/,
      ],
      [
        'with a picture for what is said',
        [
          ['operation', TRANSFORM],
          ['prompt', file],
        ],
        /"prompt" is given twice/,
      ],
      [
        'with a list of parameters',
        [['operation', '{"operation":"image_transform","config":"x","parameters":[]}']],
        /parameters must be an object/,
      ],
      ['with an operation that is no JSON', [['operation', 'a boat']], /not JSON/],
      [
        'with no object',
        [
          ['operation', '"a boat"'],
          ['image', file],
        ],
        /must be a JSON object/,
      ],
    ])('%s is refused', async (_, fields, sentence) => {
      const { response, jobs } = await send(...fields);
      expect(response.status).toBe(400);
      expect(((await response.json()) as { error: { message: string } }).error.message).toMatch(sentence);
      expect(await jobs.list()).toEqual([]);
    });

    test('cannot reach the prototype of its parameters', async () => {
      const { jobs } = await send(['operation', TRANSFORM], ['__proto__', file]);
      for (const { operation } of await jobs.list()) {
        expect(Object.getPrototypeOf(operation.parameters)).toBe(Object.prototype);
      }
      expect(({} as { size?: number }).size).toBeUndefined();
    });
  });

  describe('a stream', () => {
    const stream = (routes: JobRoutes, id: string, headers: Record<string, string> = {}) =>
      ask(routes, 'GET', `/v1/jobs/${id}/stream`, null, headers);

    test('numbers its events, ends with the job, and sends nobody back', async () => {
      const { routes } = open();
      const { job_id: id } = await bodyOf<{ job_id: string }>(post(routes, OPERATION));
      const response = await stream(routes, id);
      expect(response.headers.get('Content-Type')).toBe('text/event-stream; charset=utf-8');
      const text = await response.text();
      // A client that does not close its EventSource must not reconnect every second.
      expect(text).toMatch(/\n\nevent: end\nid: end\nretry: 86400000\ndata: .*\n\n$/);
      const events = await eventsOf(new Response(text));
      expect(events.at(-1)).toMatchObject({ event: 'end', id: 'end', data: { state: 'completed' } });
      expect(events.slice(0, -1).every(({ event }) => event === 'job')).toBe(true);
      expect(events.slice(0, -1).map((event) => event.id)).toEqual(events.slice(0, -1).map((__, at) => String(at + 1)));
      expect((await eventsOf(await stream(routes, id))).map(({ event }) => event)).toEqual(['end']);
      expect((await stream(routes, id, { 'Last-Event-ID': 'end' })).status).toBe(204);
      expect((await stream(routes, id, { 'Last-Event-ID': '3' })).status).toBe(200);
    });

    test('shows signs of life, and stops following when nobody reads', async () => {
      const { routes, jobs } = open();
      await jobs.pause(true);
      const { id } = await jobs.submit(OPERATION);
      const reader = (await stream(routes, id)).body?.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      while (!text.includes(': still here\n\n')) {
        text += (await reader?.read())?.value ?? '';
      }
      expect(text).toMatch(/^retry: 1000\n\nevent: job\nid: 1\ndata: \{.*"state":"pending".*\}\n\n/);
      expect(jobs.followers(id)).toBe(1);
      await reader?.cancel();
      expect(jobs.followers(id)).toBe(0);
    });

    test('stops when its request is given up', async () => {
      const { routes, jobs } = open();
      await jobs.pause(true);
      const { id } = await jobs.submit(OPERATION);
      const gone = new AbortController();
      await routes.answer(new Request(`${ORIGIN}/v1/jobs/${id}/stream`, { signal: gone.signal }));
      expect(jobs.followers(id)).toBe(1);
      gone.abort();
      expect(jobs.followers(id)).toBe(0);
    });

    test('ends after its time without an end, so that it is asked for again', async () => {
      const { jobs } = open();
      await jobs.pause(true);
      const { id } = await jobs.submit(OPERATION);
      const events = await eventsOf(await stream(new JobRoutes(jobs, { base: '/', streamMs: 5 }), id));
      expect(events.map(({ event, data }) => [event, data.state])).toEqual([['job', 'pending']]);
      expect(jobs.followers(id)).toBe(0);
    });

    test('ends with an error when its job is forgotten', async () => {
      const { routes, jobs } = open();
      await jobs.pause(true);
      const { id } = await jobs.submit(OPERATION);
      const response = await stream(routes, id);
      await jobs.remove(id);
      expect((await eventsOf(response)).at(-1)).toMatchObject({
        event: 'error',
        data: { error: { code: 'invalid_operation', message: `There is no job "${id}".` } },
      });
    });

    test('gives a slow reader the newest state, not all of them', async () => {
      const { routes, jobs } = open();
      const { id } = await jobs.submit({ ...OPERATION, parameters: { ...PARAMETERS, steps: 500 } });
      const response = await stream(routes, id);
      await jobs.wait(id);
      const events = await eventsOf(response);
      expect(events.length).toBeLessThan(100);
      expect(events.at(-1)).toMatchObject({ event: 'end', data: { state: 'completed' } });
    });

    test('has only headers when only they are asked for', async () => {
      const { routes, jobs } = open();
      await jobs.pause(true);
      const { id } = await jobs.submit(OPERATION);
      const response = await ask(routes, 'HEAD', `/v1/jobs/${id}/stream`);
      expect([response.status, response.body, jobs.followers(id)]).toEqual([200, null, 0]);
    });
  });

  test('the queue is paused, made to go on for ever, and told of', async () => {
    const { routes } = open();
    const patch = (change: object) => bodyOf(ask(routes, 'PATCH', '/v1/queue', JSON.stringify(change), JSON_TYPE));
    expect(await patch({ isPaused: true })).toEqual({ isPaused: true, runs: 'elsewhere', forever: null });
    const { job_id: id } = await bodyOf<{ job_id: string }>(post(routes, OPERATION));
    expect(await patch({ forever: id })).toMatchObject({ forever: id });
    expect(await patch({ forever: null, isPaused: false })).toMatchObject({ forever: null, isPaused: false });
    expect(await bodyOf(ask(routes, 'GET', '/v1/queue'))).toMatchObject({ forever: null, isPaused: false });
  });

  test('waiting jobs are reordered, all are cancelled, ended ones are forgotten', async () => {
    const { routes, jobs } = open();
    await jobs.pause(true);
    const [a, b] = [(await jobs.submit(OPERATION)).id, (await jobs.submit(OPERATION)).id];
    const listed = async () => (await bodyOf<{ jobs: Job[] }>(ask(routes, 'GET', '/v1/jobs'))).jobs.map(({ id }) => id);
    await ask(routes, 'PATCH', `/v1/jobs/${b}`, JSON.stringify({ before: a }), JSON_TYPE);
    expect(await listed()).toEqual([b, a]);
    expect((await ask(routes, 'DELETE', `/v1/jobs/${a}?forget`)).status).toBe(409);
    const { jobs: all } = await bodyOf<{ jobs: Job[] }>(ask(routes, 'DELETE', '/v1/jobs'));
    expect(all.map(({ state }) => state)).toEqual(['cancelled', 'cancelled']);
    expect((await ask(routes, 'DELETE', `/v1/jobs/${a}?forget`)).status).toBe(204);
    expect(await listed()).toEqual([b]);
  });

  describe('media', () => {
    const recorded = async () => {
      const { routes, jobs } = open();
      const { entities } = await jobs.wait((await jobs.submit(OPERATION)).id);
      const path = `/v1/media/${entities[0].run}/${entities[0].filename}`;
      return {
        text: '["a boat","42"]',
        get: (range?: string) => ask(routes, 'GET', path, null, range ? { Range: range } : {}),
        routes,
        path,
      };
    };

    test('come whole, with their type and length', async () => {
      const { get, text, routes, path } = await recorded();
      const response = await get();
      expect(Object.fromEntries(response.headers)).toMatchObject({
        'content-type': 'image/png',
        'content-length': String(text.length),
        'accept-ranges': 'bytes',
        'content-disposition': 'inline; filename="01_output_image.png"',
      });
      expect(await response.text()).toBe(text);
      const head = await ask(routes, 'HEAD', path);
      expect([head.status, head.headers.get('Content-Length'), await head.text()]).toEqual([200, '15', '']);
    });

    test.each([
      ['bytes=0-4', 206, 'bytes 0-4/15', '["a b'],
      ['bytes=9-', 206, 'bytes 9-14/15', ',"42"]'],
      ['bytes=-3', 206, 'bytes 12-14/15', '2"]'],
      ['bytes=-99', 206, 'bytes 0-14/15', '["a boat","42"]'],
      ['bytes=12-99', 206, 'bytes 12-14/15', '2"]'],
      ['bytes=15-', 416, 'bytes */15', null],
      ['bytes=-0', 416, 'bytes */15', null],
      ['bytes=4-2', 200, null, '["a boat","42"]'],
      ['bytes=0-1,3-4', 200, null, '["a boat","42"]'],
      ['lines=1-2', 200, null, '["a boat","42"]'],
    ])('%s', async (range, status, contentRange, content) => {
      const response = await (await recorded()).get(range);
      expect([response.status, response.headers.get('Content-Range')]).toEqual([status, contentRange]);
      if (content !== null) {
        expect(await response.text()).toBe(content);
      }
    });
  });
});

describe('the channel', () => {
  const serve = (tabs = 1) => {
    const ether = new Ether();
    const jobs = new FakeJobs();
    const ends = Array.from({ length: tabs }, () => serveChannel(jobs, ether));
    return { ether, jobs, ends };
  };

  test('of several tabs one obeys, and when it is closed the next one does', async () => {
    const { ether, jobs, ends } = serve(3);
    expect(await ether.say({ type: 'submit', id: 'one', operation: OPERATION }, 'end')).toHaveLength(6);
    ends[0]();
    // A tab that was closed while waiting is skipped.
    ends[1]();
    const { job } = await ether.answer({ type: 'submit', id: 'two', operation: OPERATION }, 'end');
    expect(job.state).toBe('completed');
    expect((await jobs.list()).map(({ id }) => id)).toEqual(['one', 'two']);
    ends[2]();
    await new Promise((turned) => setImmediate(turned));
    expect(ether.openChannels).toBe(0);
  });

  test('what is said twice is done once, and told again', async () => {
    const { ether, jobs } = serve();
    await jobs.pause(true);
    const message = { type: 'submit', id: 'mine', operation: OPERATION };
    await ether.say(message, 'job');
    await ether.say(message, 'job');
    expect(await jobs.list()).toHaveLength(1);
    expect(jobs.followers('mine')).toBe(1);
  });

  test('jobs stand in the queue as they were said', async () => {
    const { ether, jobs } = serve();
    await jobs.pause(true);
    const ids = Array.from({ length: 20 }, (_, n) => `job-${n}`);
    await Promise.all(ids.map((id) => ether.say({ type: 'submit', id, operation: OPERATION }, 'job')));
    expect((await jobs.list()).map(({ id }) => id)).toEqual(ids);
    await ether.say({ type: 'reorder', id: 'job-19', before: 'job-0' }, 'job');
    expect((await jobs.list())[0].id).toBe('job-19');
  });

  test('the queue is changed and told of, ended jobs are forgotten, all are cancelled', async () => {
    const { ether } = serve();
    const queue = await ether.answer({ type: 'queue', id: 'q', isPaused: true }, 'queue');
    expect(queue.queue).toEqual({ isPaused: true, runs: 'elsewhere', forever: null });
    await ether.say({ type: 'submit', id: 'a', operation: OPERATION }, 'job');
    expect((await ether.answer({ type: 'queue', id: 'q', forever: 'a' }, 'queue')).queue.forever).toBe('a');
    await expect(ether.answer({ type: 'forget', id: 'a' }, 'forgotten')).rejects.toThrow(/has not ended yet/);
    const { jobs } = await ether.answer({ type: 'cancel_all', id: 'q' }, 'jobs');
    expect(jobs.map(({ state }) => state)).toEqual(['cancelled']);
    await ether.answer({ type: 'forget', id: 'a' }, 'forgotten');
    expect((await ether.answer({ type: 'list', id: 'q' }, 'jobs')).jobs).toEqual([]);
  });

  test.each([
    [{ type: 'sumbit', operation: OPERATION }, /^type must be one of submit, /],
    [{ operation: OPERATION }, /^type must be one of submit, /],
    [{ type: 'submit' }, /lacks the field "operation"/],
    [{ type: 'submit', operation: OPERATION, priority: 1 }, /unknown field "priority"/],
    [{ type: 'queue', isPaused: 'yes' }, /^isPaused must be true or false\.$/],
    [{ type: 'entity', run: 'x' }, /lacks the field "filename"/],
    [{ type: 'entity', run: '../..', filename: 'journal' }, /There is no run/],
  ])('%j is answered with a sentence', async (message, sentence) => {
    const [told] = await serve().ether.say({ id: 'x', ...message });
    expect(told).toMatchObject({ type: 'error', error: { code: 'invalid_operation' } });
    expect((told as { error: { message: string } }).error.message).toMatch(sentence);
  });

  test('what has no id that an answer could go to is passed over', async () => {
    const { ether, jobs } = serve();
    const tasks = ether.open(TASKS_CHANNEL);
    const submit = { type: 'submit', operation: OPERATION };
    for (const message of [
      null,
      undefined,
      1,
      'submit',
      [],
      {},
      new Map([['id', 'x']]),
      submit,
      { ...submit, id: 7 },
      { ...submit, id: '' },
      { ...submit, id: 'a/b' },
      { ...submit, id: 'x'.repeat(65) },
    ]) {
      tasks.postMessage(message);
    }
    expect((await ether.answer({ type: 'list', id: 'after' }, 'jobs')).jobs).toEqual([]);
    expect(await jobs.list()).toEqual([]);
  });
});

const summary: CheckpointSummary = {
  ref: 'builtin:tiny',
  name: 'tiny',
  pipelineClass: 'StableDiffusionPipeline',
  variants: ['full'],
  memoryBytes: 1,
  largestTensorBytes: 1,
  defaults: { width: 64, height: 64 },
} as unknown as CheckpointSummary;

describe('the JSON Schema of operations', () => {
  const compile = () => new Ajv().compile(operationDocument(catalogue));
  /** The code's verdict: the envelope's gate, then the chunks' own through the plan. */
  const isAccepted = (value: unknown): boolean => {
    try {
      const operation = parseOperation(value);
      const { OUTPUT_CHUNK: chunk } = catalogue.configs[operation.config]?.parameters ?? {};
      const classes = typeof chunk === 'string' ? catalogue.chunks[chunk]?.meta.needs.checkpoint : undefined;
      // Each config runs on a checkpoint of its family: the schema does not know which one is open.
      const [pipelineClass = summary.pipelineClass] = classes ?? [];
      return plan(operation, catalogue, () => ({ ...summary, pipelineClass }), null).ok;
    } catch {
      return false;
    }
  };
  const of = (parameters: unknown, more: object = {}) => ({ ...OPERATION, parameters, ...more });
  const transform = (parameters: object) => of({ prompt: '', ...parameters }, { operation: 'image_transform' });
  const inpaint = (parameters: object) => of({ prompt: '', ...parameters }, { operation: 'image_inpaint' });
  const values: unknown[] = [
    0,
    -1,
    1,
    1.5,
    7,
    8,
    16,
    17,
    64,
    100,
    150,
    151,
    4096,
    4104,
    1e21,
    true,
    null,
    '',
    'x',
    [],
    {},
    '42',
    '007',
  ];
  const table: unknown[] = [
    ...[null, 1, 'x', [], {}],
    ...[OPERATION, of({}), of({ prompt: '' }), of({ prompt: 1 }), of([]), of(null)],
    ...[{ operation: 'x' }, { config: '' }, { config: 'x' }, { config: '__proto__' }, { more: 1 }].map((more) =>
      of({ prompt: '' }, more),
    ),
    ...['high', 'low', 'urgent', null].map((priority) => of({ prompt: '' }, { priority })),
    ...['x', null, 1, ''].map((checkpoint) => of({ prompt: '' }, { checkpoint })),
    ...[[], ['latents'], ['latents', 'latents'], ['x'], 'latents', null].map((record) =>
      of({ prompt: '' }, { record }),
    ),
    ...Object.keys(catalogue.configs).map((config) => of({ prompt: '' }, { config })),
    ...[
      'steps',
      'width',
      'height',
      'guidance_scale',
      'guidance_mode',
      'sampler',
      'schedule',
      'seed',
      'batch_size',
      'strength',
      'image',
      'negative_prompt',
      'loras',
      'nonsense',
    ].flatMap((name) => [...values, 'auto', 'serial'].map((value) => of({ prompt: '', [name]: value }))),
    ...[
      '0',
      '18446744073709551615',
      '18446744073709551616',
      '18446744073709551609',
      '9999999999999999999',
      '10000000000000000000',
      '28446744073709551615',
      '184467440737095516150',
      '-1',
      '1.5',
      ' 1',
      '1\n',
    ].map((seed) => of({ prompt: '', seed })),
    ...[
      {},
      { image: PICTURE },
      { image: 'cat.png' },
      { image: PICTURE, mask_image: PICTURE },
      { mask_image: PICTURE },
      { image: PICTURE, strength: 0.5 },
      { image: PICTURE, strength: 0 },
      { image: PICTURE, strength: 1 },
      { image: PICTURE, strength: 1.01 },
      ...['#ffffff', '#A0b1C2', '#fff', 'white', '#ffffff00', '', 0].map((background) => ({
        image: PICTURE,
        background,
      })),
    ].flatMap((parameters) => [of({ prompt: '', ...parameters }), transform(parameters), inpaint(parameters)]),
    ...[
      [],
      [{ lora: 'a' }],
      [{ lora: 'a', weight: 0.5 }],
      [{ lora: '' }],
      [{ weight: 1 }],
      [{ lora: 'a', weight: 'x' }],
      [{ lora: 'a', more: 1 }],
      Array.from({ length: 17 }, () => ({ lora: 'a' })),
    ].map((loras) => of({ prompt: '', loras })),
  ];

  test(`says the same as the code of ${table.length} operations`, () => {
    const validate = compile();
    const differ = table.filter((value) => validate(value) !== isAccepted(value));
    expect(differ).toEqual([]);
    const accepted = table.filter(isAccepted).length;
    expect(accepted).toBeGreaterThan(50);
    expect(table.length - accepted).toBeGreaterThan(100);
  });

  test('says the same of numbers and seeds beyond any table', () => {
    const validate = compile();
    const parameters = fc.record(
      {
        prompt: fc.string(),
        steps: fc.oneof(fc.integer({ min: -5, max: 160 }), fc.double({ noNaN: true, noDefaultInfinity: true })),
        width: fc.integer({ min: 0, max: 5000 }),
        guidance_scale: fc.double({ min: -10, max: 110, noNaN: true }),
        strength: fc.double({ min: -0.5, max: 1.5, noNaN: true }),
        seed: fc.oneof(fc.bigInt({ min: -3n, max: 2n ** 64n + 3n }).map(String), fc.string()),
        batch_size: fc.integer({ min: -1, max: 20 }),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(parameters, (given) => {
        const value = JSON.parse(JSON.stringify(of(given))) as unknown;
        expect(validate(value)).toBe(isAccepted(value));
      }),
      { numRuns: 2000, seed: 5 },
    );
  });

  test('names every config and its defaults, and is the same at every build', () => {
    const { properties, definitions } = documents()['operation.json'] as {
      properties: { config: { enum: string[] } };
      definitions: Record<string, { properties: Record<string, { default?: unknown }> }>;
    };
    expect(properties.config.enum).toEqual(Object.keys(catalogue.configs));
    const turbo = definitions.sd_turbo.properties;
    expect([turbo.steps.default, turbo.guidance_scale.default, turbo.seed.default]).toEqual([1, 0, undefined]);
    expect(JSON.stringify(documents())).toBe(JSON.stringify(documents()));
  });

  test('an error is what its own schema says', async () => {
    const validate = new Ajv().compile(documents()['error.json']);
    const answer = await bodyOf(post(new JobRoutes(new FakeJobs(), { base: '/' }), {}));
    expect(validate(answer)).toBe(true);
    expect(validate({ error: { code: 'x', message: '', retry: 'never' } })).toBe(false);
  });
});

/** Seeded numbers from 0 to 2^32 − 1. */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (x ^ (x >>> 14)) >>> 0;
  };
}

const ODD: unknown[] = [
  undefined,
  null,
  true,
  -0,
  NaN,
  Infinity,
  2 ** 53,
  10n,
  '',
  '\0',
  '__proto__',
  'constructor',
  '\ud800',
  'x'.repeat(1e5),
  [],
  {},
  [[[[]]]],
  PICTURE,
  'data:',
  'data:image/',
  new Map(),
  new Date(0),
  new Uint8Array(3),
  new Blob(['x']),
  JSON.parse('{"__proto__":{"isPaused":true}}'),
];

function isPlain(value: unknown): value is Record<string, unknown> {
  return Array.isArray(value) || Object.getPrototypeOf(value ?? 0) === Object.prototype;
}

/** A copy with up to four values replaced, added, renamed or removed, at any depth. */
function mutated(value: unknown, next: () => number): unknown {
  const copy: unknown = structuredClone(value);
  for (let n = next() % 5; n > 0; n--) {
    if (next() % 40 === 0) {
      return ODD[next() % ODD.length];
    }
    let place = copy as Record<string, unknown>;
    for (let keys = Object.keys(place); next() % 2 === 0; keys = Object.keys(place)) {
      const inner = place[keys[next() % keys.length]];
      if (!isPlain(inner) || Object.keys(inner).length === 0) {
        break;
      }
      place = inner;
    }
    const keys = Object.keys(place);
    const key = keys[next() % keys.length] ?? 'x';
    switch (next() % 4) {
      case 0:
        place[key] = ODD[next() % ODD.length];
        break;
      case 1:
        place[['extra', 'toString', 'size', '', 'type', 'id'][next() % 6]] = ODD[next() % ODD.length];
        break;
      case 2:
        place[`${key} `] = place[key];
        delete place[key];
        break;
      default:
        delete place[key];
    }
  }
  return copy;
}

describe('10,000 mutants at each gate give a value or a typed error', () => {
  const INPUTS = 10_000;
  const report: string[] = [];
  const text = new TextEncoder();
  const TRANSFORM = {
    ...OPERATION,
    operation: 'image_transform',
    parameters: { ...PARAMETERS, image: PICTURE, strength: 0.5 },
    priority: 'high',
    checkpoint: DEFAULT_CHECKPOINT,
    record: ['latents'],
  };
  const MESSAGES = [
    { type: 'submit', id: 'a', operation: TRANSFORM },
    { type: 'follow', id: 'a' },
    { type: 'cancel', id: 'a' },
    { type: 'repeat', id: 'b', job_id: 'a' },
    { type: 'reorder', id: 'a', before: null },
    { type: 'list', id: 'c' },
    { type: 'queue', id: 'd', isPaused: true, forever: null },
    { type: 'entity', id: 'e', run: 'run_1', filename: '01_x.png' },
  ];
  /** Validates operations but keeps no jobs, so that ten thousand leave nothing behind. */
  const judge = () => {
    const jobs = new FakeJobs();
    jobs.submit = (operation) => Promise.resolve({ id: 'a', operation: parseOperation(operation) } as Job);
    jobs.follow = () => () => {};
    return jobs;
  };
  const scrambled = (value: unknown, next: () => number): Uint8Array<ArrayBuffer> => {
    const bytes = text.encode(
      JSON.stringify(value, (_, inner: unknown) => (typeof inner === 'bigint' ? `${inner}` : inner)) ?? '',
    );
    for (let n = next() % 4; n > 0 && bytes.length > 0; n--) {
      bytes[next() % bytes.length] = next() % 3 === 0 ? next() & 255 : 0x22 + (next() % 0x5c);
    }
    return bytes.slice(0, next() % 10 === 0 ? next() % (bytes.length + 1) : undefined);
  };

  type Judge = (next: () => number) => Promise<'value' | 'refused'>;
  const gates: Record<string, () => Judge | Promise<Judge>> = {
    'the operation': () => (next) => {
      const given = mutated(TRANSFORM, next);
      try {
        const operation = parseOperation(given);
        plan(operation, catalogue, () => summary, null);
        // Whatever was accepted can be serialised.
        JSON.stringify(withoutPictures(operation));
        return Promise.resolve('value');
      } catch (error) {
        expect(error).toBeInstanceOf(StudioError);
        expect((error as StudioError).code).toBe('invalid_operation');
        return Promise.resolve('refused');
      }
    },
    'HTTP, as JSON': () => {
      const routes = new JobRoutes(judge(), { base: '/' });
      return async (next) => {
        const { status } = await ask(routes, 'POST', '/v1/jobs', scrambled(mutated(TRANSFORM, next), next), JSON_TYPE);
        expect([202, 400]).toContain(status);
        return status === 202 ? 'value' : 'refused';
      };
    },
    'HTTP, as a form': async () => {
      const routes = new JobRoutes(judge(), { base: '/' });
      const form = new FormData();
      form.set('operation', JSON.stringify({ ...TRANSFORM, parameters: PARAMETERS }));
      form.set('image', new Blob(['PNG'], { type: 'image/png' }), 'a.png');
      const sent = new Response(form);
      const headers = { 'Content-Type': sent.headers.get('Content-Type') ?? '' };
      const whole = new Uint8Array(await sent.arrayBuffer());
      return async (next) => {
        const bytes = whole.slice(0, next() % 4 === 0 ? next() % whole.length : undefined);
        for (let n = next() % 4; n > 0 && bytes.length > 0; n--) {
          bytes[next() % bytes.length] = next() & 255;
        }
        const { status } = await ask(routes, 'POST', '/v1/jobs', bytes, headers);
        expect([202, 400]).toContain(status);
        return status === 202 ? 'value' : 'refused';
      };
    },
    'HTTP, as an address': () => {
      const routes = new JobRoutes(judge(), { base: '/' });
      const paths = ['/v1/jobs/abc-1', '/v1/jobs/abc/stream', '/v1/media/run_1/01_x.png', '/v1/queue', '/v1/jobs'];
      const odd = ['%', '%00', '..%2f', '/', '//', '?', '#', '%F0%9F', 'é', '\\', '{', '__proto__', ' ', ';', '%2e%2e'];
      return async (next) => {
        const path = paths[next() % paths.length];
        const at = '/v1/'.length + (next() % (path.length - '/v1/'.length + 1));
        const given = new URL(
          `${path.slice(0, at)}${odd[next() % odd.length]}${path.slice(at + (next() % 3))}`,
          ORIGIN,
        );
        const response = await routes.answer(
          new Request(given, { method: ['GET', 'HEAD', 'DELETE', 'PUT'][next() % 4] }),
        );
        expect(response?.status ?? 404).toBeLessThan(500);
        await response?.body?.cancel();
        return response?.ok ? 'value' : 'refused';
      };
    },
    'the channel': () => {
      const ether = new Ether();
      serveChannel(judge(), ether);
      const tasks = ether.open(TASKS_CHANNEL);
      return async (next) => {
        const message = mutated(MESSAGES[next() % MESSAGES.length], next) as { id?: unknown } | null;
        const { id } = message ?? {};
        const isAnswered = typeof id === 'string' && /^[\w-]{1,64}$/.test(id);
        const updates = ether.open(UPDATES_CHANNEL + (typeof id === 'string' ? id : ''));
        const heard: TaskUpdate[] = [];
        updates.onmessage = ({ data }) => heard.push(data as TaskUpdate);
        tasks.postMessage(message);
        // Followed by a request that is always answered; by then everything before it has had its turn.
        await ether.say({ type: 'list', id: 'after' }, 'jobs');
        updates.close();
        expect(heard.length).toBeLessThanOrEqual(isAnswered ? 1 : 0);
        return heard.some(({ type }) => type === 'error') || !isAnswered ? 'refused' : 'value';
      };
    },
  };

  test.each(Object.entries(gates))(
    '%s',
    async (gate, make) => {
      const judgeOne = await make();
      const next = randomNumbers(20_261_121);
      const seen = { value: 0, refused: 0 };
      const times: number[] = [];
      for (let n = 0; n < INPUTS; n++) {
        const start = process.cpuUsage();
        seen[await judgeOne(next)]++;
        const { user, system } = process.cpuUsage(start);
        times.push((user + system) / 1000);
      }
      expect(seen.value).toBeGreaterThan(INPUTS / 100);
      expect(seen.refused).toBeGreaterThan(INPUTS / 100);
      times.sort((a, b) => a - b);
      const at = (share: number) => times[Math.min(INPUTS - 1, Math.floor(share * INPUTS))];
      // Processor time, garbage collection included, which is why the slowest few are only printed.
      expect(at(0.99)).toBeLessThan(50);
      report.push(
        `${gate}: ${seen.value} values, ${seen.refused} refused; median ${at(0.5).toFixed(2)} ms, 99.9 % within ${at(0.999).toFixed(2)} ms, slowest ${at(1).toFixed(2)} ms`,
      );
    },
    120_000,
  );

  test('what no JSON can hold is refused, however it is wrapped', () => {
    const circle: unknown[] = [];
    circle.push(circle);
    // As deep as nested lists may be; with the same list twice at each level JSON would have 4 billion.
    const laughs = Array.from({ length: 32 }).reduce<unknown>((inner) => [inner, inner], 'ha');
    const deep = JSON.parse(`${'['.repeat(1e5)}${']'.repeat(1e5)}`) as unknown;
    for (const value of [10n, Symbol('x'), () => 1, new Map(), new Date(0), new Uint8Array(1), circle, laughs, deep]) {
      for (const parameter of [value, [value], { x: value }]) {
        expect(() => parseOperation({ ...OPERATION, parameters: { x: parameter } })).toThrow(
          expect.objectContaining({
            code: 'invalid_operation',
            message: expect.stringMatching(/^The parameter "x" must be plain/) as string,
          }),
        );
      }
    }
    // As given by a page that embeds Darkroom in a frame.
    const elsewhere: unknown = runInNewContext('({ a: [{}] })');
    for (const value of [
      elsewhere,
      null,
      undefined,
      1,
      '',
      true,
      [[{ a: [1] }]],
      Object.create(null) as unknown,
      new Blob(['x']),
    ]) {
      expect(parseOperation({ ...OPERATION, parameters: { x: value } }).parameters.x).toEqual(value);
    }
  });

  test('anything at all is judged', () => {
    fc.assert(
      fc.property(
        fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true }),
        (value) => {
          try {
            parseOperation(value);
          } catch (error) {
            expect(error).toBeInstanceOf(StudioError);
          }
        },
      ),
      { numRuns: 2000, seed: 5 },
    );
  });

  test('what was accepted is accepted again, and stays what it was', () => {
    const operations = fc.record(
      {
        operation: fc.constantFrom('image_generation', 'image_transform', 'image_inpaint'),
        config: fc.string({ minLength: 1 }),
        parameters: fc.dictionary(
          fc.string().filter((key) => key !== '__proto__'),
          fc.jsonValue(),
        ),
        priority: fc.constantFrom('high', 'normal', 'low'),
        checkpoint: fc.option(fc.string()),
        record: fc.constantFrom([], ['latents']),
      },
      { requiredKeys: ['operation', 'config', 'parameters'] },
    );
    fc.assert(
      fc.property(operations, (given) => {
        const once = parseOperation(JSON.parse(JSON.stringify(given)));
        expect(parseOperation(JSON.parse(JSON.stringify(once)))).toEqual(once);
        expect(JSON.parse(JSON.stringify(once.parameters))).toEqual(JSON.parse(JSON.stringify(given.parameters)));
      }),
      { numRuns: 2000, seed: 5 },
    );
  });

  afterAll(() => {
    console.log(report.join('\n'));
  });
});

test('docs/API.md names every route, message, update and event', () => {
  const text = readFileSync(new URL('../docs/API.md', import.meta.url), 'utf8');
  const routes = [
    'POST /v1/jobs',
    'GET /v1/jobs',
    'DELETE /v1/jobs',
    'GET /v1/jobs/{id}',
    'PATCH /v1/jobs/{id}',
    'DELETE /v1/jobs/{id}',
    'GET /v1/jobs/{id}/stream',
    'POST /v1/jobs/{id}/repeat',
    'GET /v1/queue',
    'PATCH /v1/queue',
    'GET /v1/media/{run}/{entity}',
    'Idempotency-Key',
  ];
  const messages = [
    'submit',
    'follow',
    'cancel',
    'forget',
    'repeat',
    'reorder',
    'list',
    'cancel_all',
    'queue',
    'entity',
  ];
  const missing = [
    ...routes,
    ...messages.map((type) => `type: '${type}'`),
    ...['job', 'end', 'jobs', 'queue', 'entity', 'forgotten', 'error'].map((type) => `\`${type}\``),
  ].filter((words) => !text.includes(words));
  expect(missing).toEqual([]);
});

// So that a job of this file's fake ends like real ones.
test('the fake queue keeps the reducer', async () => {
  const jobs = new FakeJobs();
  const job = await jobs.wait((await jobs.submit({ ...OPERATION, parameters: { steps: 0 } })).id);
  expect(isFinished(job)).toBe(true);
  expect(job).toMatchObject({ state: 'failed', error: { code: 'invalid_operation' } });
});
