/** Queue, job states, runner, worker links and client, with engines whose promises the tests settle by hand. */
import { afterEach, describe, expect, test } from 'vitest';
import { StudioError, cancelled } from '../src/core/errors.ts';
import type { Job, JobEvent } from '../src/core/job.ts';
import { parseOperation } from '../src/core/operation.ts';
import type { Operation } from '../src/core/operation.ts';
import { JobClient } from '../src/jobs/client.ts';
import { deferred } from '../src/jobs/deferred.ts';
import type { Deferred } from '../src/jobs/deferred.ts';
import { folderSource } from '../src/jobs/folder_source.ts';
import { createJobQueue } from '../src/jobs/queue.ts';
import type { JobChange } from '../src/jobs/state.ts';
import { newJob, reduce } from '../src/jobs/state.ts';
import { drain } from '../src/jobs/runner.ts';
import type { Engine, Work } from '../src/jobs/runner.ts';
import { WorkerPair } from '../src/jobs/worker_pair.ts';
import { WorkerLink } from '../src/jobs/worker_link.ts';
import type { WorkerLike } from '../src/jobs/worker_link.ts';
import { EventSender, serve } from '../workers/protocol.ts';
import type { CheckpointSource } from '../workers/protocol.ts';

const SOURCE: CheckpointSource = { kind: 'builtin', name: 'shapes' };
const PROGRESS: JobEvent = { type: 'progress', progress: { stage: 'sample', step: 1, steps: 4, secondsLeft: 3 } };

test('a file that cannot be read any more is told as one, whoever read it', () => {
  const error = StudioError.from(new DOMException('The requested file could not be read.', 'NotReadableError'));
  expect(error).toMatchObject({ code: 'checkpoint_incomplete', retry: 'same' });
  expect(error.message).toContain('open it again');
});

describe('states', () => {
  const changes: JobChange[] = [
    { type: 'started', at: 2 },
    { type: 'event', event: PROGRESS },
    { type: 'completed', at: 3 },
    { type: 'failed', at: 3, error: new StudioError('internal', 'Broken.').toData() },
    { type: 'cancelled', at: 3 },
  ];
  const legal: Record<Job['state'], JobChange['type'][]> = {
    pending: ['started', 'cancelled'],
    running: ['event', 'completed', 'failed', 'cancelled'],
    completed: [],
    failed: [],
    cancelled: [],
  };

  for (const state of Object.keys(legal) as Job['state'][]) {
    test.for(changes)(`a ${state} job and $type`, (change) => {
      const job: Job = { ...newJob('a', operation(), 1), state };
      const before = structuredClone(job);
      if (legal[state].includes(change.type)) {
        expect(reduce(job, change)).not.toEqual(job);
      } else {
        expect(() => reduce(job, change)).toThrow('cannot be changed');
      }
      expect(job).toEqual(before);
    });
  }

  test('events are kept where they belong, and progress ends with the job', () => {
    const entity = {
      run: 'r',
      sequence: 1,
      type: 'input',
      filename: '01_input.json',
      timestamp: '',
      sha256: '',
      metadata: {},
    };
    const events: JobEvent[] = [
      { type: 'run', run: 'r' },
      { type: 'notice', message: 'Cut.' },
      { type: 'notice', message: 'Cut again.' },
      { type: 'entity', entity },
      PROGRESS,
    ];
    let job = reduce(newJob('a', operation(), 1), { type: 'started', at: 2 });
    job = events.reduce((so, event) => reduce(so, { type: 'event', event }), job);
    const told = { run: 'r', notices: ['Cut.', 'Cut again.'], entities: [entity] };
    expect(job).toMatchObject({ ...told, startedAt: 2, progress: PROGRESS.type === 'progress' && PROGRESS.progress });
    expect(reduce(job, { type: 'completed', at: 9 })).toMatchObject({ ...told, progress: null, finishedAt: 9 });
  });
});

describe('the queue', () => {
  test('gives jobs by priority, then in order of submission', async () => {
    const { jobs, receiver } = queue();
    for (const priority of ['normal', 'low', 'high', 'normal', 'high'] as const) {
      jobs.submit(operation(priority), SOURCE);
    }
    expect(await takeAll(receiver, 5)).toEqual(['3', '5', '1', '4', '2']);
  });

  test('is reordered by hand, across priorities', async () => {
    const { jobs, receiver } = queue();
    for (const priority of ['high', 'normal', 'low'] as const) {
      jobs.submit(operation(priority), SOURCE);
    }
    jobs.reorder('3', '1');
    jobs.reorder('1', null);
    expect(jobs.list().map(({ id }) => id)).toEqual(['3', '2', '1']);
    jobs.reorder('2', 'unknown');
    jobs.reorder('unknown', '1');
    jobs.reorder('1', '1');
    expect(await takeAll(receiver, 3)).toEqual(['3', '1', '2']);
  });

  test('waits for the next job when there is none', async () => {
    const { jobs, receiver } = queue();
    const taken = receiver.take();
    const job = jobs.submit(operation(), SOURCE);
    expect(job.state).toBe('running');
    expect(await taken).toMatchObject({ id: job.id, payload: SOURCE });
  });

  test('answers the one who waits, before and after the end', async () => {
    const { jobs, receiver } = queue();
    const { id } = jobs.submit(operation(), SOURCE);
    const waiting = jobs.wait(id);
    (await receiver.take()).complete();
    expect((await waiting).state).toBe('completed');
    expect((await jobs.wait(id)).state).toBe('completed');
    await expect(jobs.wait('unknown')).rejects.toThrow('There is no job');
  });

  test('drops a pending job at once, and asks a running one', async () => {
    const { jobs, receiver } = queue();
    const running = jobs.submit(operation(), SOURCE);
    const pending = jobs.submit(operation(), SOURCE);
    const request = await receiver.take();
    jobs.cancel(pending.id);
    expect(jobs.get(pending.id)?.state).toBe('cancelled');
    jobs.cancel(running.id);
    expect(jobs.get(running.id)?.state).toBe('running');
    expect(request.signal.aborted).toBe(true);
    request.fail(cancelled());
    expect(jobs.get(running.id)).toMatchObject({ state: 'cancelled', error: null });
    jobs.cancel(running.id);
    jobs.cancel('unknown');
  });

  test('takes no news after the end', async () => {
    const { jobs, receiver } = queue();
    const { id } = jobs.submit(operation(), SOURCE);
    const request = await receiver.take();
    request.fail(new StudioError('gpu_lost', 'Gone.', { retry: 'same' }));
    const ended = jobs.get(id);
    request.report(PROGRESS);
    request.complete();
    request.fail(cancelled());
    expect(jobs.get(id)).toBe(ended);
    expect(ended?.error).toEqual({ code: 'gpu_lost', message: 'Gone.', retry: 'same' });
  });

  test('forgets ended jobs only', async () => {
    const { jobs, receiver } = queue();
    const { id } = jobs.submit(operation(), SOURCE);
    jobs.remove(id);
    const request = await receiver.take();
    jobs.remove(id);
    expect(jobs.list()).toHaveLength(1);
    request.complete();
    jobs.remove(id);
    expect(jobs.list()).toEqual([]);
  });

  test('tells of every change until unsubscribed', async () => {
    const { jobs, receiver } = queue();
    const seen: string[] = [];
    const stop = jobs.subscribe((list) => seen.push(list.map(({ state }) => state).join()));
    jobs.submit(operation(), SOURCE);
    const request = await receiver.take();
    request.report(PROGRESS);
    stop();
    request.complete();
    expect(seen).toEqual(['pending', 'running', 'running']);
  });
});

describe('the runner', () => {
  test('runs one job at a time, passes events on and reports the end', async () => {
    const { jobs, engine } = running();
    const first = jobs.submit(operation(), SOURCE);
    const second = jobs.submit(operation(), SOURCE);
    const one = await engine.next();
    expect(one.request).toMatchObject({ jobId: first.id, source: SOURCE });
    one.onEvent(PROGRESS);
    expect(jobs.get(first.id)?.progress?.step).toBe(1);
    expect(jobs.get(second.id)?.state).toBe('pending');
    one.end.resolve(undefined);
    expect((await jobs.wait(first.id)).state).toBe('completed');
    const two = await engine.next();
    two.end.reject(new StudioError('out_of_memory', 'Too big.', { retry: 'smaller' }));
    expect(await jobs.wait(second.id)).toMatchObject({ state: 'failed', error: { retry: 'smaller' } });
  });

  test('goes on after a job that failed with something unknown', async () => {
    const { jobs, engine } = running();
    const first = jobs.submit(operation(), SOURCE);
    const second = jobs.submit(operation(), SOURCE);
    (await engine.next()).end.reject(new TypeError('x is undefined'));
    expect((await jobs.wait(first.id)).error).toMatchObject({ code: 'internal', retry: 'same' });
    (await engine.next()).end.resolve(undefined);
    expect((await jobs.wait(second.id)).state).toBe('completed');
  });

  test('asks the engine to stop a cancelled job', async () => {
    const { jobs, engine } = running();
    const { id } = jobs.submit(operation(), SOURCE);
    const call = await engine.next();
    expect(call.signal.aborted).toBe(false);
    jobs.cancel(id);
    expect(call.signal.aborted).toBe(true);
    call.end.reject(cancelled());
    expect((await jobs.wait(id)).state).toBe('cancelled');
  });

  function running() {
    const { jobs, receiver } = queue();
    const engine = new HeldEngine();
    void drain(receiver, engine);
    return { jobs, engine };
  }
});

describe('a worker link', () => {
  const made: FakeWorker[] = [];
  afterEach(() => made.splice(0).forEach((worker) => worker.terminate()));

  /** What the owner of the worker in these tests can do. */
  type Owner = Record<'refuse' | 'hang', () => Promise<never>> & { double: (value: number) => Promise<number> };
  const owner: Owner = {
    double: (value) => Promise.resolve(value * 2),
    refuse: () =>
      Promise.reject(new StudioError('out_of_memory', 'Too big.', { retry: 'smaller', cause: new Error('why') })),
    hang: () => new Promise(() => {}),
  };

  function link(readyWithin?: number) {
    const worker = new FakeWorker();
    made.push(worker);
    return { worker, link: new WorkerLink<Owner>('helper', worker, readyWithin) };
  }

  test('answers, and carries errors whole', async () => {
    const { worker, link: one } = link();
    const early = one.call('double', 4);
    await worker.serve(owner);
    expect(await early).toBe(8);
    const error = await one.call('refuse').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(StudioError);
    expect(error).toMatchObject({ code: 'out_of_memory', message: 'Too big.', retry: 'smaller', cause: 'why' });
    expect(one.failure).toBeNull();
  });

  test('rejects an unknown method', async () => {
    const { worker, link: one } = link();
    await worker.serve({ double: owner.double });
    await expect(one.call('hang')).rejects.toMatchObject({
      code: 'worker_failed',
      message: expect.stringContaining('"hang"') as string,
    });
    expect(await one.call('double', 1)).toBe(2);
  });

  test.for<[string, (worker: FakeWorker) => void]>([
    ['its script is missing', (worker) => worker.dispatch('error', {})],
    ['it throws', (worker) => worker.dispatch('error', { message: 'Uncaught Error: x' })],
    ['it sends what cannot be read', (worker) => worker.dispatch('messageerror', {})],
    ['it is sent what cannot be read', (worker) => worker.far.postMessage({ darkroom: 'unreadable' })],
  ])('every call ends when %s', async ([, harm]) => {
    const { worker, link: one } = link();
    const calls = [one.call('hang'), one.call('double', 1)];
    harm(worker);
    for (const call of calls) {
      await expect(call).rejects.toMatchObject({ code: 'worker_failed', retry: 'same' });
    }
    expect(worker.terminated).toBe(true);
    expect((await one.ended).message).toMatch(/^The helper .+\.$/);
    await expect(one.call('double', 1)).rejects.toBe(one.failure);
  });

  test('a call that is under way ends with terminate', async () => {
    const { worker, link: one } = link();
    await worker.serve(owner);
    await one.call('double', 1);
    const call = one.call('hang');
    const reason = cancelled();
    one.terminate(reason);
    await expect(call).rejects.toBe(reason);
  });

  test('a worker that never speaks up is given up', async () => {
    const { link: one } = link(1);
    await expect(one.call('double', 1)).rejects.toMatchObject({
      message: 'The helper did not start; reload the page.',
    });
  });
});

test('an event sender waits until everything has arrived', async () => {
  const arrived: Deferred<void>[] = [];
  const sender = new EventSender(() => {
    arrived.push(deferred<void>());
    return arrived.at(-1)?.promise;
  });
  sender.send(PROGRESS);
  sender.send(PROGRESS);
  let isDelivered = false;
  const delivered = sender.delivered().then(() => (isDelivered = true));
  arrived[1]?.resolve();
  await Promise.resolve();
  expect(isDelivered).toBe(false);
  arrived[0]?.resolve();
  await delivered;
});

describe('the client', () => {
  const made: FakeWorker[] = [];
  afterEach(() => made.splice(0).forEach((worker) => worker.terminate()));

  /** A generator that holds each job until the test ends it. */
  class HeldGenerator {
    readonly jobs: { jobId: string; source: CheckpointSource; end: Deferred<{ run: string }> }[] = [];
    canvases = 0;
    start = () => Promise.resolve({ backend: 'wasm', adapter: 'test' });
    openCheckpoint = (source: CheckpointSource) =>
      Promise.resolve({ ref: `${source.kind}:${'name' in source ? source.name : 'another'}` });
    execute = (request: { jobId: string; source: CheckpointSource }) => {
      const end = deferred<{ run: string }>();
      this.jobs.push({ ...request, end });
      return end.promise;
    };
    cancel = (jobId: string) => {
      this.jobs.find((job) => job.jobId === jobId)?.end.reject(cancelled());
      return Promise.resolve();
    };
    ledger = () => Promise.resolve({ createdBuffers: 1 });
  }

  function client() {
    const generators: { owner: HeldGenerator; worker: FakeWorker }[] = [];
    const recorders: FakeWorker[] = [];
    const make = (owner: object) => {
      const worker = new FakeWorker();
      made.push(worker);
      void worker.serve(owner);
      return worker;
    };
    const one = new JobClient(
      new WorkerPair({
        generation: () => {
          const owner = new HeldGenerator();
          generators.push({ owner, worker: make(owner) });
          return generators.at(-1)!.worker;
        },
        recorder: () => {
          recorders.push(
            make({
              connect: () => Promise.resolve(),
              storage: () => Promise.resolve({ persistent: true, note: null }),
            }),
          );
          return recorders.at(-1)!;
        },
      }),
    );
    /** The n-th job that reached the k-th generator. */
    const job = (k: number, n: number) => until(() => generators[k]?.owner.jobs[n]);
    return { client: one, generators, recorders, job };
  }

  test('checks an operation at once', () => {
    const { client: one } = client();
    expect(() => one.submit({ operation: 'image_generation' })).toThrow(StudioError);
    expect(() => one.submit({ ...operation(), checkpoint: 'folder:closed' })).toThrow('is not open');
    expect(one.jobs).toEqual([]);
  });

  test('runs on the built-in checkpoint, then on the one that was opened last', async () => {
    const { client: one, job } = client();
    expect(one.submit(operation()).operation.checkpoint).toBe('builtin:shapes');
    const first = await job(0, 0);
    expect(first.source).toEqual(SOURCE);
    await one.openFolder([{ path: 'mine/model_index.json', file: new File(['{}'], 'model_index.json') }]);
    const second = one.submit(operation());
    expect(second.operation.checkpoint).toBe('folder:mine');
    first.end.resolve({ run: 'r' });
    expect((await job(0, 1)).source).toMatchObject({ kind: 'folder', name: 'mine' });
  });

  test('a generator that dies fails its job, and the next job gets a new one', async () => {
    const { client: one, generators, job } = client();
    const engines: string[] = [];
    one.onEngine(({ adapter }) => engines.push(adapter));
    const [first, second] = [one.submit(operation()), one.submit(operation())];
    await job(0, 0);
    generators[0].worker.dispatch('error', { message: 'Uncaught' });
    expect(await one.wait(first.id)).toMatchObject({
      state: 'failed',
      error: { code: 'worker_failed', retry: 'same' },
    });
    (await job(1, 0)).end.resolve({ run: 'r' });
    expect((await one.wait(second.id)).state).toBe('completed');
    expect(engines).toEqual(['test', 'test']);
  });

  test.for(['gpu_lost', 'out_of_memory'] as const)('after %s the generator is replaced', async (code) => {
    const { client: one, generators, job } = client();
    const { id } = one.submit(operation());
    (await job(0, 0)).end.reject(new StudioError(code, 'Gone.'));
    expect(await one.wait(id)).toMatchObject({ error: { code } });
    expect(generators[0].worker.terminated).toBe(true);
    expect(await one.ledger()).toEqual({ createdBuffers: 1 });
    expect(generators).toHaveLength(2);
  });

  test('a recorder that dies fails the job that writes to it, and both are made anew', async () => {
    const { client: one, generators, recorders, job } = client();
    const { id } = one.submit(operation());
    await job(0, 0);
    recorders[0].dispatch('error', {});
    expect(await one.wait(id)).toMatchObject({ state: 'failed', error: { code: 'worker_failed' } });
    expect(await one.storage()).toEqual({ persistent: true, note: null });
    one.submit(operation());
    await job(1, 0);
    expect([generators.length, recorders.length]).toEqual([2, 2]);
  });

  test('does not run what was cancelled while the generator was starting', async () => {
    const { client: one, generators } = client();
    const { id } = one.submit(operation());
    await one.cancel(id);
    expect((await one.wait(id)).state).toBe('cancelled');
    expect(generators[0].owner.jobs).toEqual([]);
  });

  test('cancels the running job through the worker', async () => {
    const { client: one, job } = client();
    const { id } = one.submit(operation());
    await job(0, 0);
    await one.cancel(id);
    expect((await one.wait(id)).state).toBe('cancelled');
  });
});

describe('a folder', () => {
  const files = (...paths: string[]) => paths.map((path) => ({ path, file: new File([], path) }));

  test.for<[string, string[], string, string[]]>([
    ['chosen itself', ['sd/model_index.json', 'sd/unet/config.json'], 'sd', ['model_index.json', 'unet/config.json']],
    [
      'one level up',
      ['hub/readme.md', 'hub/sd/model_index.json', 'hub/sd/vae/a.json'],
      'sd',
      ['model_index.json', 'vae/a.json'],
    ],
    [
      'given without its own name',
      ['model_index.json', 'vae/a.json'],
      'checkpoint',
      ['model_index.json', 'vae/a.json'],
    ],
    [
      'with another inside',
      ['a/model_index.json', 'a/old/model_index.json'],
      'a',
      ['model_index.json', 'old/model_index.json'],
    ],
    ['without an index', ['a/unet/config.json', 'a/b.txt'], 'a', ['unet/config.json', 'b.txt']],
  ])('%s', ([, paths, name, inside]) => {
    const source = folderSource(files(...paths));
    expect(source).toMatchObject({ kind: 'folder', name });
    expect(source.kind === 'folder' && source.files.map(({ path }) => path)).toEqual(inside);
  });

  test('that is empty is refused', () => {
    expect(() => folderSource([])).toThrow('This folder is empty');
  });
});

function operation(priority: Operation['priority'] = 'normal'): Operation {
  return parseOperation({ operation: 'image_generation', config: 'stable_diffusion', parameters: {}, priority });
}

function queue() {
  let time = 0;
  let id = 0;
  return createJobQueue<CheckpointSource>({ now: () => (time += 1), newId: () => String((id += 1)) });
}

async function takeAll(receiver: ReturnType<typeof queue>['receiver'], count: number): Promise<string[]> {
  const taken: string[] = [];
  for (let index = 0; index < count; index += 1) {
    taken.push((await receiver.take()).id);
  }
  return taken;
}

/** Gives the event loop turns until there is something. */
async function until<T>(look: () => T | undefined): Promise<T> {
  for (;;) {
    const found = look();
    if (found !== undefined) {
      return found;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

interface Call {
  request: Work;
  onEvent: (event: JobEvent) => void;
  signal: AbortSignal;
  end: Deferred<undefined>;
}

/** Holds every job until the test ends it. */
class HeldEngine implements Engine {
  #next = deferred<Call>();

  next(): Promise<Call> {
    return this.#next.promise.then((call) => {
      this.#next = deferred<Call>();
      return call;
    });
  }

  execute(request: Work, onEvent: Call['onEvent'], signal: AbortSignal): Promise<unknown> {
    const call = { request, onEvent, signal, end: deferred<undefined>() };
    this.#next.resolve(call);
    return call.end.promise;
  }
}

/** A worker whose two ends are in this thread; `far` is the worker's own side. */
class FakeWorker implements WorkerLike {
  terminated = false;
  readonly far: MessagePort;
  readonly #near: MessagePort;
  readonly #events = new EventTarget();

  constructor() {
    const { port1, port2 } = new MessageChannel();
    this.#near = port1;
    this.far = port2;
    port1.onmessage = ({ data }) => this.dispatch('message', { data: data as unknown });
  }

  serve(owner: object): Promise<void> {
    return serve(owner, this.far);
  }

  dispatch(type: string, properties: object): void {
    this.#events.dispatchEvent(Object.assign(new Event(type), properties));
  }

  postMessage(message: unknown, transfer: Transferable[] = []): void {
    this.#near.postMessage(message, transfer);
  }

  addEventListener(type: string, listener: EventListenerOrEventListenerObject): void {
    this.#events.addEventListener(type, listener);
  }

  removeEventListener(type: string, listener: EventListenerOrEventListenerObject): void {
    this.#events.removeEventListener(type, listener);
  }

  terminate(): void {
    this.terminated = true;
    this.#near.close();
    this.far.close();
  }
}
