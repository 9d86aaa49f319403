/** The queue, alone and shared by tabs, job states, runner, worker links and client, with engines whose promises the tests resolve by hand. */
import 'fake-indexeddb/auto';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { DEFAULT_CHECKPOINT, goneSentence } from '../src/core/builtin_checkpoints.ts';
import { StudioError, cancelled } from '../src/core/errors.ts';
import type { Entity, Job, JobEvent, ResumePoint } from '../src/core/job.ts';
import { parseOperation } from '../src/core/operation.ts';
import type { Requirements } from '../src/core/plan.ts';
import type { Operation } from '../src/core/operation.ts';
import { JobClient } from '../src/jobs/client.ts';
import { deferred } from '../src/jobs/deferred.ts';
import type { Deferred } from '../src/jobs/deferred.ts';
import { folderSource } from '../src/jobs/folder_source.ts';
import { MemoryJobStore } from '../src/jobs/job_store.ts';
import type { JobStore, Writes } from '../src/jobs/job_store.ts';
import type { JobRequest, Sourced } from '../src/jobs/queue.ts';
import { LibraryClient } from '../src/jobs/library.ts';
import { LiveStreams } from '../src/jobs/live_streams.ts';
import { QueueWitness } from '../src/jobs/queue_witness.ts';
import { ServerLanes } from '../src/jobs/server_lanes.ts';
import { Sources } from '../src/jobs/sources.ts';
import { StoredJobs } from '../src/jobs/stored_jobs.ts';
import { Turn } from '../src/jobs/turn.ts';
import type { JobChange } from '../src/jobs/state.ts';
import { newJob, reduce } from '../src/jobs/state.ts';
import { drain } from '../src/jobs/runner.ts';
import type { Engine, Work } from '../src/jobs/runner.ts';
import { WorkerPair } from '../src/jobs/worker_pair.ts';
import { WorkerLink } from '../src/jobs/worker_link.ts';
import type { WorkerLike } from '../src/jobs/worker_link.ts';
import type { Witness } from '../src/storage/witness.ts';
import { EventSender, serve } from '../workers/connection.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';
import { Browser, SOURCE } from './tabs.ts';
import type { Tab } from './tabs.ts';

const PROGRESS: Extract<JobEvent, { type: 'progress' }> = {
  type: 'progress',
  progress: { of: 'output', stage: 'sample', step: 1, steps: 4, fraction: 0.4, secondsLeft: 3 },
};

test('a file that cannot be read any more is told as one, whoever read it', () => {
  const error = StudioError.from(new DOMException('The requested file could not be read.', 'NotReadableError'));
  expect(error).toMatchObject({ code: 'checkpoint_incomplete', retry: 'same' });
  expect(error.message).toContain('open it again');
});

test('who listens midway is told all that a running job made so far, and a new attempt begins anew', () => {
  const streams = new LiveStreams<{ from: number }>((pieces, piece) => void pieces.push(piece));
  const heard: Record<string, number[]> = { early: [], late: [], after: [] };
  const listen = (name: string) => streams.listen('a', ({ from }) => heard[name].push(from));
  const stop = listen('early');
  streams.add('a', 1, { from: 0 });
  streams.add('a', 1, { from: 5 });
  streams.add('other', 1, { from: 99 });
  listen('late');
  stop();
  streams.add('a', 2, { from: 0 });
  expect(heard).toMatchObject({ early: [0, 5], late: [0, 5, 0] });
  streams.end('a');
  listen('after');
  expect(heard.after).toEqual([]);
  streams.clear();
  expect(streams.isHeard).toBe(false);
});

describe('states', () => {
  const changes: JobChange[] = [
    { type: 'started', at: 2 },
    { type: 'restarted', at: 2 },
    { type: 'interrupted' },
    { type: 'held', obstacle: 'Its folder is closed.' },
    { type: 'event', event: PROGRESS },
    { type: 'completed', at: 3 },
    { type: 'failed', at: 3, error: new StudioError('internal', 'Broken.').toData() },
    { type: 'cancelled', at: 3 },
  ];
  const legal: Record<Job['state'], JobChange['type'][]> = {
    pending: ['started', 'held', 'cancelled'],
    running: ['restarted', 'interrupted', 'event', 'completed', 'failed', 'cancelled'],
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
    expect(job).toMatchObject({ ...told, startedAt: 2, progress: PROGRESS.progress });
    expect(reduce(job, { type: 'completed', at: 9 })).toMatchObject({ ...told, progress: null, finishedAt: 9 });
  });
});

describe('the queue', () => {
  const { open } = browsers();

  test('gives jobs by priority, then in order of submission', async () => {
    const { jobs, receiver } = open();
    for (const priority of ['normal', 'low', 'high', 'normal', 'high'] as const) {
      await jobs.submit(operation(priority));
    }
    expect(await takeAll(receiver, 5)).toEqual(['3', '5', '1', '4', '2']);
  });

  test('is reordered by hand, across priorities', async () => {
    const { jobs, receiver } = open();
    for (const priority of ['high', 'normal', 'low'] as const) {
      await jobs.submit(operation(priority));
    }
    await jobs.pause(true);
    await jobs.reorder('3', '1');
    await jobs.reorder('1', null);
    expect((await jobs.list()).map(({ id }) => id)).toEqual(['3', '2', '1']);
    await jobs.reorder('2', 'unknown');
    await expect(jobs.reorder('unknown', '1')).rejects.toMatchObject({ code: 'invalid_operation' });
    await jobs.reorder('1', '1');
    await jobs.pause(false);
    expect(await takeAll(receiver, 3)).toEqual(['3', '2', '1']);
  });

  test('waits for the next job when there is none', async () => {
    const { jobs, receiver } = open();
    const taken = receiver.take();
    const job = await jobs.submit(operation());
    expect(await taken).toMatchObject({
      id: job.id,
      payload: { [DEFAULT_CHECKPOINT]: SOURCE },
      attempt: 1,
      run: null,
      point: null,
    });
    expect((await jobs.get(job.id)).state).toBe('running');
  });

  test('answers the one who waits, before and after the end', async () => {
    const { jobs, receiver } = open();
    const { id } = await jobs.submit(operation());
    const waiting = jobs.wait(id);
    (await receiver.take()).complete();
    expect((await waiting).state).toBe('completed');
    expect((await jobs.wait(id)).state).toBe('completed');
    await expect(jobs.wait('unknown')).rejects.toThrow('There is no job');
  });

  test('drops a pending job at once, and asks a running one', async () => {
    const { jobs, receiver } = open();
    const running = await jobs.submit(operation());
    const pending = await jobs.submit(operation());
    const request = await receiver.take();
    expect((await jobs.cancel(pending.id)).state).toBe('cancelled');
    expect((await jobs.cancel(running.id)).state).toBe('running');
    expect(request.signal.aborted).toBe(true);
    request.fail(cancelled());
    expect(await jobs.wait(running.id)).toMatchObject({ state: 'cancelled', error: null });
    expect((await jobs.cancel(running.id)).state).toBe('cancelled');
    await expect(jobs.cancel('unknown')).rejects.toMatchObject({ code: 'invalid_operation' });
  });

  test('takes no news after the end', async () => {
    const { jobs, receiver } = open();
    const { id } = await jobs.submit(operation());
    const request = await receiver.take();
    request.fail(new StudioError('gpu_lost', 'Gone.', { retry: 'same' }));
    request.report(PROGRESS);
    request.complete();
    request.restart();
    request.fail(cancelled());
    await jobs.submit(operation());
    await receiver.take();
    const ended = await jobs.get(id);
    expect(ended).toMatchObject({ state: 'failed', attempts: 1, progress: null });
    expect(ended.error).toEqual({ code: 'gpu_lost', message: 'Gone.', retry: 'same' });
  });

  test('forgets ended jobs only', async () => {
    const { jobs, receiver } = open();
    const { id } = await jobs.submit(operation());
    await jobs.remove(id);
    const request = await receiver.take();
    await jobs.remove(id);
    expect(await jobs.list()).toHaveLength(1);
    request.complete();
    await jobs.wait(id);
    await jobs.remove(id);
    expect(await jobs.list()).toEqual([]);
    await expect(jobs.get(id)).rejects.toMatchObject({ code: 'invalid_operation' });
  });

  test('tells of every change until unsubscribed', async () => {
    const { jobs, receiver } = open();
    const seen: string[] = [];
    const stop = jobs.subscribe(({ jobs: list, changed }) => {
      if (changed.size > 0) {
        seen.push(list.map(({ state, progress }) => state + (progress ? ' 1/4' : '')).join());
      }
    });
    const { id } = await jobs.submit(operation());
    const request = await receiver.take();
    request.report(PROGRESS);
    expect(seen).toEqual(['pending', 'running', 'running 1/4']);
    stop();
    request.complete();
    await jobs.wait(id);
    expect(seen.filter((state) => state === 'completed')).toEqual([]);
  });
});

describe('the queue of several tabs', () => {
  const { browser } = browsers();
  afterEach(() => vi.useRealTimers());
  const POINT: ResumePoint = { parameters: { chunk: { seed: '7' } }, state: new Uint8Array([1, 2, 3]) };
  const ids = (jobs: readonly Job[], state: Job['state'] = 'pending') =>
    jobs.filter((job) => job.state === state).map(({ id }) => id);

  test('random submits, cancels, moves, takes, ends, crashes and restarts keep the order and lose nothing', async () => {
    const place = fc.nat(30);
    const action = fc.oneof(
      { weight: 4, arbitrary: fc.tuple(fc.constant('submit' as const), fc.nat(1), fc.nat(2)) },
      { weight: 2, arbitrary: fc.tuple(fc.constant('reorder' as const), place, fc.option(place)) },
      { weight: 2, arbitrary: fc.tuple(fc.constant('take' as const)) },
      { weight: 2, arbitrary: fc.tuple(fc.constant('end' as const), fc.constantFrom('complete', 'fail')) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('cancel' as const), place) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('crash' as const)) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('steal' as const)) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(action, { minLength: 5, maxLength: 30 }), async (actions) => {
        const one = browser();
        const tabs = [one.tab(), one.tab()];
        const line: { id: string; band: number }[] = [];
        const ended = new Map<string, Job['state']>();
        let running: { id: string; band: number; request: JobRequest<Sourced<CheckpointSource>> } | null = null;
        /** The tab whose turn it is, which has held the lock since the other released it. */
        let owner = 0;
        await until(() => tabs[0].turn.token ?? undefined);
        const interrupt = async (run: () => Promise<unknown> | void) => {
          await run();
          await until(() => tabs[owner].turn.token ?? undefined);
          if (running) {
            // It waits again in its old place; all others wait as before.
            const { id, band } = running;
            running = null;
            // What nobody takes is settled by the next owner.
            const { jobs } = tabs[owner];
            await until(() => jobs.running().length === 0 || undefined);
            const now = ids(await tabs[owner].jobs.list());
            expect(now.filter((other) => other !== id)).toEqual(line.map((job) => job.id));
            line.splice(now.indexOf(id), 0, { id, band });
          }
        };
        for (const [type, a, b] of actions) {
          const { jobs, receiver } = tabs[owner];
          if (type === 'submit') {
            const band = b;
            const { id } = await tabs[a].jobs.submit(operation((['high', 'normal', 'low'] as const)[band]));
            line.splice(line.findLastIndex((job) => job.band <= band) + 1, 0, { id, band });
          } else if (type === 'reorder' && line.length > 1) {
            const [moved] = line.splice(a % line.length, 1);
            const to = b === null ? line.length : (b as number) % line.length;
            await tabs[1 - owner].jobs.refresh();
            await tabs[1 - owner].jobs.reorder(moved.id, line[to]?.id ?? null);
            line.splice(to, 0, { id: moved.id, band: (line[to] ?? line[to - 1]).band });
          } else if (type === 'take' && !running && line.length > 0) {
            await jobs.refresh();
            const request = await receiver.take();
            const first = line.shift();
            expect(request.id).toBe(first?.id);
            running = { id: request.id, band: first?.band ?? 0, request };
          } else if (type === 'end' && running) {
            const { id, request } = running;
            running = null;
            if (a === 'complete') {
              request.complete();
            } else {
              request.fail(new StudioError('internal', 'No.'));
            }
            ended.set(id, (await jobs.wait(id)).state);
          } else if (type === 'cancel' && line.length > 0) {
            const [dropped] = line.splice(a % line.length, 1);
            expect((await tabs[1 - owner].jobs.cancel(dropped.id)).state).toBe('cancelled');
            ended.set(dropped.id, 'cancelled');
          } else if (type === 'crash') {
            const gone = owner;
            owner = 1 - owner;
            await interrupt(() => {
              tabs[gone].end();
              tabs[gone] = one.tab();
            });
          } else if (type === 'steal') {
            const old = running?.request;
            owner = 1 - owner;
            await interrupt(async () => {
              tabs[owner].turn.take();
              await until(() => tabs[1 - owner].turn.token === null || undefined);
              // Like a runner whose job was stopped.
              old?.fail(cancelled());
            });
          }
          for (const watcher of [tabs[0].jobs, tabs[1].jobs, one.jobs()]) {
            await watcher.refresh();
            const known = await watcher.list();
            expect(ids(known)).toEqual(line.map(({ id }) => id));
            expect(ids(known, 'running')).toEqual(running ? [running.id] : []);
            expect(known).toHaveLength(line.length + ended.size + (running ? 1 : 0));
            for (const job of known.filter(({ id }) => ended.has(id))) {
              expect(job.state).toBe(ended.get(job.id));
            }
          }
        }
        one.close();
      }),
      { numRuns: 40 },
    );
  });

  test('two tabs that submit at once lose nothing, and both see the same line', async () => {
    const one = browser();
    const tabs = [one.tab(), one.tab()];
    const made = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        tabs.map(({ jobs }) => jobs.submit({ ...operation(), parameters: { i } })),
      ).flat(),
    );
    for (const { jobs } of tabs) {
      await jobs.refresh();
    }
    const [here, there] = tabs.map(({ jobs }) => ids(jobs.jobs));
    expect(here).toEqual(there);
    expect(new Set(here)).toEqual(new Set(made.map(({ id }) => id)));
    // One tab's submissions keep their order.
    for (const own of [0, 1].map((tab) => made.filter((_, i) => i % 2 === tab).map(({ id }) => id))) {
      expect(here.filter((id) => own.includes(id))).toEqual(own);
    }
  });

  test('only the first tab runs; another one watches, submits, cancels and pauses', async () => {
    const one = browser();
    const [owner, other] = [one.tab(), one.tab()];
    await until(() => owner.turn.token ?? undefined);
    expect((await owner.jobs.queue()).runs).toBe('here');
    expect((await other.jobs.queue()).runs).toBe('elsewhere');
    const { id } = await other.jobs.submit(operation());
    const request = await owner.receiver.take();
    request.report(PROGRESS);
    await until(() => other.jobs.stored(id)?.job.progress ?? undefined);
    expect((await other.jobs.cancel(id)).state).toBe('running');
    await until(() => request.signal.aborted || undefined);
    await other.jobs.pause(true);
    request.fail(cancelled());
    expect((await other.jobs.wait(id)).state).toBe('cancelled');
    const next = await other.jobs.submit(operation());
    const taken = owner.receiver.take();
    await owner.jobs.refresh();
    expect((await owner.jobs.get(next.id)).state).toBe('pending');
    await other.jobs.pause(false);
    expect((await taken).id).toBe(next.id);
    one.close();
    expect((await one.jobs().queue()).runs).toBe('nowhere');
  });

  test('a job whose tab crashed goes on in the next one, with its run, entities and last point', async () => {
    const one = browser();
    const [first, second] = [one.tab(), one.tab()];
    const { id } = await first.jobs.submit(operation());
    const request = await first.receiver.take();
    request.report({ type: 'run', run: 'r' });
    request.report({ type: 'entity', entity: ENTITY });
    request.report({ type: 'resume_point', point: { ...POINT, state: 'an earlier one' } });
    request.report({ type: 'resume_point', point: POINT });
    request.restart();
    await until(() => (first.jobs.stored(id)?.job.attempts === 2 ? true : undefined));
    first.end();
    const again = await second.receiver.take();
    expect(again).toMatchObject({ id, attempt: 3, run: 'r', point: POINT });
    expect(await second.jobs.get(id)).toMatchObject({ state: 'running', attempts: 3, entities: [ENTITY] });
    // Anything the first one still reports comes too late.
    request.complete();
    again.complete();
    await second.jobs.wait(id);
    expect(await second.jobs.point(id)).toBeNull();
  });

  test('a tab that is robbed of its turn lets go first; one that hangs is not waited for', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const one = browser();
    const [owner, robber] = [one.tab(), one.tab()];
    const { id } = await owner.jobs.submit(operation());
    const request = await owner.receiver.take();
    robber.turn.take();
    await until(() => request.signal.aborted || undefined);
    request.report(PROGRESS);
    request.fail(cancelled());
    const taken = await robber.receiver.take();
    expect(taken).toMatchObject({ id, attempt: 2 });
    // The same in reverse, with nobody letting go.
    owner.turn.take();
    await until(() => taken.signal.aborted || undefined);
    const last = owner.receiver.take();
    let isTaken = false;
    void last.then(() => (isTaken = true));
    await until(async () => {
      await vi.advanceTimersByTimeAsync(100);
      return isTaken || undefined;
    });
    expect(await last).toMatchObject({ id, attempt: 3 });
    taken.complete();
    (await last).fail(new StudioError('internal', 'No.'));
    expect(await owner.jobs.wait(id)).toMatchObject({ state: 'failed', attempts: 3 });
  });

  test('what is stored and could not be told any more is found: a submit by looking now and then, an end by the next owner', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const one = browser();
    const [owner, other] = [one.tab(), one.tab()];
    owner.jobs.subscribe(() => undefined);
    await owner.jobs.list();
    void one.jobs(new LastWords(one.store)).submit(operation());
    await until(async () => ((await one.store.readAll('job/')).size > 0 ? true : undefined));
    expect(ids(owner.jobs.jobs)).toEqual([]);
    await vi.advanceTimersByTimeAsync(5000);
    const id = await until(() => ids(owner.jobs.jobs)[0]);
    owner.end();

    const dying = one.tab(undefined, new LastWords(one.store, 'completed'));
    other.end();
    const request = await dying.receiver.take();
    request.complete();
    await until(async () => ((await one.jobs().get(id)).state === 'completed' ? true : undefined));
    dying.end();
    const heir = one.tab();
    const next = await heir.jobs.submit(operation());
    expect((await heir.receiver.take()).id).toBe(next.id);
    expect(await heir.jobs.get(id)).toMatchObject({ state: 'completed', attempts: 1 });
  });

  test('records of an older version are taken over; those of a later one are left alone', async () => {
    const one = browser();
    const old = JSON.parse(readFileSync(new URL('jobs/schema_1.json', import.meta.url), 'utf8')) as Record<
      string,
      unknown
    >;
    const later = { schema_version: 3, something: 'else' };
    await one.store.change([], () => new Map([...Object.entries(old), ['job/later', later]]));
    const { jobs, receiver } = one.tab();
    await until(() => (ids(jobs.jobs).length === 2 ? true : undefined));
    expect(ids(jobs.jobs)).toEqual(['waiting', 'running']);
    const first = await receiver.take();
    expect(first).toMatchObject({ id: 'waiting', attempt: 1 });
    first.complete();
    expect(await receiver.take()).toMatchObject({
      id: 'running',
      attempt: 2,
      run: 'run_1760000000003_abcdef',
      point: null,
    });
    expect((await one.store.read(['job/later']))[0]).toEqual(later);
    await expect(jobs.get('later')).rejects.toMatchObject({ code: 'invalid_operation' });
  });

  test('records of a built-in checkpoint that is gone fail at once, with the default one offered', async () => {
    const one = browser();
    const old = JSON.parse(readFileSync(new URL('jobs/schema_1.json', import.meta.url), 'utf8')) as Record<
      string,
      unknown
    >;
    await one.store.change([], () => new Map(Object.entries(old)));
    const sources = new Sources(null);
    const { jobs, receiver } = one.tab((ref) => sources.resolve(ref));
    await until(() => (ids(jobs.jobs).length === 2 ? true : undefined));
    const next = receiver.take();
    const ended = await Promise.all(['waiting', 'running'].map((id) => jobs.wait(id)));
    for (const { state, obstacle, error, offer, operation: own } of ended) {
      expect({ state, obstacle }).toEqual({ state: 'failed', obstacle: null });
      expect(error).toMatchObject({ code: 'checkpoint_incomplete', message: goneSentence('builtin:shapes') });
      expect(offer).toEqual({
        label: 'Try with Darkroom scenes',
        operation: { ...own, checkpoint: DEFAULT_CHECKPOINT },
      });
    }
    const again = await jobs.submit(ended[0].offer?.operation ?? operation());
    expect(await next).toMatchObject({ id: again.id, attempt: 1 });
  });

  test('an id that is known already is not submitted again, also after it was forgotten', async () => {
    const { jobs, receiver } = browser().tab();
    const first = await jobs.submit(operation(), 'mine');
    expect(await jobs.submit({ ...operation(), priority: 'high' }, 'mine')).toEqual(first);
    await expect(jobs.submit(operation(), 'not an id')).rejects.toMatchObject({ code: 'invalid_operation' });
    (await receiver.take()).complete();
    expect((await jobs.submit(operation(), 'mine')).state).not.toBe('pending');
    await jobs.wait('mine');
    await jobs.remove('mine');
    expect((await jobs.submit(operation(), 'mine')).state).toBe('pending');
    expect(await jobs.list()).toHaveLength(1);
  });

  test('for ever: another seed after each picture, until it fails, is cancelled or is told to end', async () => {
    const { jobs, receiver } = browser().tab();
    const { id } = await jobs.submit({ ...operation(), parameters: { seed: '7', prompt: 'p' } });
    await jobs.forever(id);
    const seeds = new Set<unknown>();
    for (let i = 0; i < 3; i++) {
      const request = await receiver.take();
      expect(request.operation.parameters.prompt).toBe('p');
      seeds.add(request.operation.parameters.seed);
      request.complete();
    }
    expect(seeds.size).toBe(3);
    (await receiver.take()).fail(new StudioError('internal', 'No.'));
    await until(() => (jobs.state.forever === null ? true : undefined));
    expect(ids(jobs.jobs)).toEqual([]);
    // For one that has ended it starts at once.
    await jobs.forever(id);
    expect(ids(jobs.jobs)).toHaveLength(1);
    await jobs.cancelAll();
    expect(jobs.state.forever).toBeNull();
    expect(ids(jobs.jobs)).toEqual([]);
    await expect(jobs.forever('unknown')).rejects.toMatchObject({ code: 'invalid_operation' });
  });

  test('of ended jobs the newest 200 are remembered', async () => {
    const { jobs } = browser().tab();
    await jobs.pause(true);
    const made = [];
    for (let i = 0; i < 203; i++) {
      made.push((await jobs.submit(operation())).id);
    }
    await jobs.submit(operation());
    for (const id of made) {
      await jobs.cancel(id);
    }
    expect(ids(jobs.jobs, 'cancelled')).toEqual(made.slice(3));
    expect(ids(jobs.jobs)).toHaveLength(1);
  });

  test('moved a hundred times into the same gap, a job is still where it was put', async () => {
    const { jobs } = browser().tab();
    await jobs.pause(true);
    const [a, b, c] = [await jobs.submit(operation()), await jobs.submit(operation()), await jobs.submit(operation())];
    for (let i = 0; i < 50; i++) {
      await jobs.reorder(c.id, b.id);
      await jobs.reorder(b.id, c.id);
    }
    expect(ids(jobs.jobs)).toEqual([a.id, b.id, c.id]);
  });

  test('a full disk refuses a submit with its code; a job that runs goes on', async () => {
    const one = browser();
    const store = new FullStore(one.store);
    const { jobs, receiver } = one.tab(undefined, store);
    const { id } = await jobs.submit(operation());
    const request = await receiver.take();
    store.isFull = true;
    await expect(jobs.submit(operation())).rejects.toMatchObject({ code: 'storage_full' });
    request.report({ type: 'entity', entity: ENTITY });
    request.complete();
    expect(await jobs.wait(id)).toMatchObject({ state: 'completed', entities: [ENTITY] });
    expect(jobs.note).toContain('no space left');
    // A later visit redoes whatever was not written down.
    expect(await one.jobs().get(id)).toMatchObject({ state: 'running', entities: [] });
  });

  test('where nothing can be stored jobs live as long as the page', async () => {
    const one = browser();
    const broken: JobStore = {
      readAll: () => Promise.reject(new StudioError('storage_unavailable', 'No.')),
      read: () => Promise.reject(new StudioError('storage_unavailable', 'No.')),
      change: () => Promise.reject(new StudioError('storage_unavailable', 'No.')),
    };
    one.tab();
    const { jobs, receiver } = one.tab(undefined, broken);
    const { id } = await jobs.submit(operation());
    (await receiver.take()).complete();
    expect((await jobs.wait(id)).state).toBe('completed');
    expect(jobs.note).toContain('keeps nothing');
  });

  test('whoever opens a database first that the browser has thrown away still stores jobs in it', async () => {
    const one = browser();
    let opened = 0;
    const { store } = one;
    const thrownAway: JobStore = {
      readAll: (prefix) => store.readAll(prefix),
      read: (keys) =>
        opened++ === 0
          ? Promise.reject(new StudioError('storage_unavailable', 'Internal error opening backing store.'))
          : store.read(keys),
      change: (keys, decide) => store.change(keys, decide),
    };
    const { jobs } = one.tab(undefined, thrownAway);
    await jobs.pause(true);
    const { id } = await jobs.submit(operation());
    expect(jobs.note).toBeNull();
    expect(ids(await one.jobs().list())).toEqual([id]);
  });
});

describe('what witnesses the queue', () => {
  const { browser } = browsers();

  /** Like a file that survives the database. */
  function memory(): Witness & { value: unknown } {
    const kept: Witness & { value: unknown } = {
      value: undefined,
      read: () => Promise.resolve(kept.value),
      write: (value) => {
        kept.value = JSON.parse(JSON.stringify(value));
        return Promise.resolve();
      },
    };
    return kept;
  }

  test('puts back what waited in a database that is gone, under the same ids, and says so and what it cannot', async () => {
    const witness = memory();
    const before = browser().jobs();
    await new QueueWitness(before, witness).begin();
    await before.pause(true);
    const image = new Blob([new Uint8Array(9)], { type: 'image/png' });
    const [one, two, cancelled] = [
      await before.submit(operation()),
      await before.submit(operation()),
      await before.submit(operation()),
    ];
    await before.submit({
      ...operation(),
      operation: 'image_transform',
      parameters: { ...operation().parameters, image },
    });
    await before.cancel(cancelled.id);
    await vi.waitFor(() => expect(JSON.stringify(witness.value)).toContain('"startsFromPicture":true'));
    await vi.waitFor(() => expect((witness.value as { waiting: object[] }).waiting).toHaveLength(3));

    const after = browser();
    const outcome = await new QueueWitness(after.jobs(), witness).begin();
    expect(outcome).toBe(
      'The browser had lost the queue, which can happen when it is killed; 2 jobs that waited are in it again. 1 job could not be put back, with its pictures; submit it anew.',
    );
    const jobs = after.jobs();
    expect((await jobs.list()).map(({ id, state }) => [id, state])).toEqual([
      [one.id, 'pending'],
      [two.id, 'pending'],
    ]);
    expect((await jobs.queue()).isPaused).toBe(true);
    expect(await new QueueWitness(jobs, witness).begin()).toBeNull();
  });

  test('says nothing of a queue that is still there, was empty, or was never witnessed', async () => {
    const witness = memory();
    const one = browser();
    expect(await new QueueWitness(one.jobs(), witness).begin()).toBeNull();
    const jobs = one.jobs();
    const { id } = await jobs.submit(operation());
    await new QueueWitness(jobs, witness).begin();
    expect(await new QueueWitness(one.jobs(), witness).begin()).toBeNull();
    await jobs.cancel(id);
    await new QueueWitness(jobs, witness).begin();
    expect(await new QueueWitness(browser().jobs(), witness).begin()).toBeNull();
    witness.value = { schema_version: 2, waiting: 'nonsense' };
    expect(await new QueueWitness(browser().jobs(), witness).begin()).toBeNull();
  });
});

describe('the runner', () => {
  const { open } = browsers();

  test('runs one job at a time, passes events on and reports the end', async () => {
    const { jobs, engine } = running();
    const first = await jobs.submit(operation());
    const second = await jobs.submit(operation());
    const one = await engine.next();
    expect(one.request).toMatchObject({ jobId: first.id, sources: { [DEFAULT_CHECKPOINT]: SOURCE } });
    one.onEvent(PROGRESS);
    expect((await jobs.get(first.id)).progress?.step).toBe(1);
    expect((await jobs.get(second.id)).state).toBe('pending');
    one.end.resolve(undefined);
    expect((await jobs.wait(first.id)).state).toBe('completed');
    const two = await engine.next();
    two.end.reject(new StudioError('invalid_operation', 'Too big.', { retry: 'smaller' }));
    expect(await jobs.wait(second.id)).toMatchObject({ state: 'failed', error: { retry: 'smaller' } });
  });

  test('goes on after a job that failed with something unknown', async () => {
    const { jobs, engine } = running();
    const first = await jobs.submit(operation());
    const second = await jobs.submit(operation());
    (await engine.next()).end.reject(new TypeError('x is undefined'));
    expect((await jobs.wait(first.id)).error).toMatchObject({ code: 'internal', retry: 'same' });
    (await engine.next()).end.resolve(undefined);
    expect((await jobs.wait(second.id)).state).toBe('completed');
  });

  test('asks the engine to stop a cancelled job', async () => {
    const { jobs, engine } = running();
    const { id } = await jobs.submit(operation());
    const call = await engine.next();
    expect(call.signal.aborted).toBe(false);
    await jobs.cancel(id);
    expect(call.signal.aborted).toBe(true);
    call.end.reject(cancelled());
    expect((await jobs.wait(id)).state).toBe('cancelled');
  });

  function running() {
    const { jobs, receiver } = open();
    const engine = new HeldEngine();
    void drain(receiver, engine);
    return { jobs, engine };
  }
});

describe('a worker link', () => {
  const made: FakeWorker[] = [];
  afterEach(() => made.splice(0).forEach((worker) => worker.terminate()));

  /** What the worker's owner can do in these tests. */
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
    return { worker, link: new WorkerLink<Owner>('The helper', worker, { ready: readyWithin }) };
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

  /** A generator that holds each job until the test finishes it. */
  class HeldGenerator {
    readonly jobs: { jobId: string; sources: Record<string, CheckpointSource>; end: Deferred<{ run: string }> }[] = [];
    canvases = 0;
    constructor(readonly started: Promise<void>) {}
    start = () => this.started.then(() => ({ backend: 'wasm', adapter: 'test' }));
    openCheckpoint = (source: CheckpointSource) =>
      Promise.resolve({ ref: `${source.kind}:${'name' in source ? source.name : 'another'}` });
    execute = (request: { jobId: string; sources: Record<string, CheckpointSource> }) => {
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

  /** @param started resolves when its generators have started */
  function client(started = Promise.resolve()) {
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
          const owner = new HeldGenerator(started);
          generators.push({ owner, worker: make(owner) });
          return generators.at(-1)!.worker;
        },
        task: () => make({ connect: () => Promise.resolve(), cancel: () => Promise.resolve() }),
        language: () => make({}),
        remote: () => Promise.reject(new Error('No other machine is used.')),
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
      new LibraryClient(() => make({})),
      {
        jobs: new StoredJobs({ store: new MemoryJobStore(), channel: null, locks: null }),
        turn: new Turn(null),
        sources: new Sources(null),
        witness: null,
      },
    );
    /** The n-th job that reached the k-th generator. */
    const job = (k: number, n: number) => until(() => generators[k]?.owner.jobs[n]);
    return { client: one, generators, recorders, job };
  }

  test('checks an operation at once', async () => {
    const { client: one } = client();
    await expect(one.submit({ ...operation(), checkpoint: 'scenes' })).rejects.toThrow(
      'There is no checkpoint "scenes"',
    );
    await expect(one.submit({ ...operation(), checkpoint: 'builtin:gone' })).rejects.toThrow(
      'The checkpoint "builtin:gone" does not come with this version of Darkroom',
    );
    expect(await one.list()).toEqual([]);
  });

  test('a built-in checkpoint that another version had cannot be opened', () => {
    expect(() => new Sources(null).get('builtin:gone')).toThrow('does not come with this version');
  });

  test('holds a job whose folder is not open, runs others past it, and goes on when it is opened', async () => {
    const { client: one, job } = client();
    const held = await one.submit({ ...operation(), checkpoint: 'folder:mine' });
    const other = await one.submit(operation());
    (await job(0, 0)).end.resolve({ run: 'r' });
    expect((await one.wait(other.id)).state).toBe('completed');
    expect(await one.get(held.id)).toMatchObject({
      state: 'pending',
      obstacle: 'The folder "mine" is not open; open it again, then this goes on.',
    });
    await one.openFolder([{ path: 'mine/model_index.json', file: new File(['{}'], 'model_index.json') }]);
    expect((await job(0, 1)).sources['folder:mine']).toMatchObject({ kind: 'folder', name: 'mine' });
    expect((await one.get(held.id)).obstacle).toBeNull();
  });

  test('runs on the built-in checkpoint, then on the one that was opened last', async () => {
    const { client: one, job } = client();
    expect((await one.submit(operation())).operation.checkpoint).toBe(DEFAULT_CHECKPOINT);
    const first = await job(0, 0);
    expect(first.sources).toEqual({ [DEFAULT_CHECKPOINT]: SOURCE });
    await one.openFolder([{ path: 'mine/model_index.json', file: new File(['{}'], 'model_index.json') }]);
    const second = await one.submit(operation());
    expect(second.operation.checkpoint).toBe('folder:mine');
    first.end.resolve({ run: 'r' });
    expect((await job(0, 1)).sources['folder:mine']).toMatchObject({ kind: 'folder', name: 'mine' });
  });

  test('a generator that dies fails its job, and the next job gets a new one', async () => {
    const { client: one, generators, job } = client();
    const engines: string[] = [];
    one.onEngine(({ adapter }) => engines.push(adapter));
    const [first, second] = [await one.submit(operation()), await one.submit(operation())];
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

  test('after out_of_memory the generator is replaced', async () => {
    const { client: one, generators, job } = client();
    const { id } = await one.submit(operation());
    (await job(0, 0)).end.reject(new StudioError('out_of_memory', 'Gone.'));
    expect(await one.wait(id)).toMatchObject({ error: { code: 'out_of_memory' } });
    expect(generators[0].worker.terminated).toBe(true);
    expect(await one.ledger()).toEqual({ createdBuffers: 1 });
    expect(generators).toHaveLength(2);
  });

  test('a recorder that dies fails the job that writes to it, and both are made anew', async () => {
    const { client: one, generators, recorders, job } = client();
    const { id } = await one.submit(operation());
    await job(0, 0);
    recorders[0].dispatch('error', {});
    expect(await one.wait(id)).toMatchObject({ state: 'failed', error: { code: 'worker_failed' } });
    expect(await one.storage()).toEqual({ persistent: true, note: null });
    await one.submit(operation());
    await job(1, 0);
    expect([generators.length, recorders.length]).toEqual([2, 2]);
  });

  test('does not run what was cancelled while the generator was starting', async () => {
    const start = deferred<void>();
    const { client: one, generators } = client(start.promise);
    const { id } = await one.submit(operation());
    await until(() => generators[0]);
    expect((await one.cancel(id)).state).toBe('running');
    start.resolve();
    expect((await one.wait(id)).state).toBe('cancelled');
    expect(generators[0].owner.jobs).toEqual([]);
  });

  test('cancels the running job through the worker', async () => {
    const { client: one, job } = client();
    const { id } = await one.submit(operation());
    await job(0, 0);
    await one.cancel(id);
    expect((await one.wait(id)).state).toBe('cancelled');
  });
});

describe('lanes for servers', () => {
  const needing = (...engines: string[]): Requirements => ({
    gpu: false,
    refs: [],
    lacking: null,
    graphs: false,
    languageSteps: [],
    engines,
    standsBy: engines.at(-1) === 'comfyui',
  });

  test('are one for each, one more where a job may stand by, four for a service, and none waits for another engine', () => {
    const open: ((needs: Requirements) => boolean)[] = [];
    const lanes = new ServerLanes((takes) => open.push(takes));
    const many = (needs: Requirements) => open.filter((takes) => takes(needs)).length;
    expect(lanes.has(needing('comfyui'))).toBe(false);

    const server = (engine: string, at: number, address = `http://host-${at}`) => ({ engine, address, hasKey: true });
    const farm = [0, 1, 2, 3, 4].map((at) => server('comfyui', at));
    lanes.know([...farm, server('openai_images', 0, 'https://api.openai.com/v1'), server('automatic1111', 0)]);
    const engines = ['comfyui', 'openai_images', 'automatic1111', 'gemini'];
    expect(engines.map((engine) => many(needing(engine)))).toEqual([6, 4, 1, 0]);
    expect(engines.map((engine) => lanes.has(needing(engine)))).toEqual([true, true, true, false]);
    // The one that makes the result counts.
    expect(many(needing('automatic1111', 'comfyui'))).toBe(6);
    expect(many({ ...needing('comfyui'), gpu: true })).toBe(0);

    lanes.know(farm.slice(0, 2));
    expect(engines.map((engine) => many(needing(engine)))).toEqual([3, 0, 0, 0]);
    expect(lanes.has(needing('automatic1111'))).toBe(false);
    lanes.know(farm);
    expect(many(needing('comfyui'))).toBe(6);
    expect(open).toHaveLength(6 + 5 + 2);
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
    expect(() => folderSource([])).toThrow(
      /^This folder is empty, or all of its files are links, .*; choose a folder that holds the files themselves/,
    );
  });

  const blob = (letter: string, length = 64) => `blobs/${letter.repeat(length)}`;
  test.each([
    [
      'a repository',
      [`models--org--sd/${blob('a')}`, 'models--org--sd/refs/main'],
      /^"models--org--sd" .* or get org\/sd in the library\.$/,
    ],
    [
      'a repository with other names',
      [`models--a-b--c--d/${blob('0', 40)}`],
      /^"models--a-b--c--d" .* get a-b\/c--d in the library\.$/,
    ],
    [
      'the whole cache',
      [`hub/models--org--sd/${blob('a')}`, 'hub/version.txt'],
      /^"hub" .* get org\/sd in the library\.$/,
    ],
    [
      'what has no names',
      [blob('a'), blob('b', 40), `${blob('c')}.incomplete`],
      /^"blobs" .* get the checkpoint in the library by its name\.$/,
    ],
  ])('that is of the Hugging Face cache, whose links a browser leaves out, says so: %s', (_, paths, sentence) => {
    expect(() => folderSource(files(...paths))).toThrow(sentence);
    expect(() => folderSource(files(...paths))).toThrow(
      /are links, and browsers do not follow links\. Copy the folder/,
    );
  });

  test('that is of the cache where it holds copies is opened', () => {
    const root = 'models--org--sd/snapshots/abc';
    expect(folderSource(files(`models--org--sd/${blob('a')}`, `${root}/model_index.json`))).toMatchObject({
      name: 'abc',
    });
    expect(folderSource(files(`${root}/sd.safetensors`))).toMatchObject({ kind: 'folder' });
  });
});

function operation(priority: Operation['priority'] = 'normal'): Operation {
  return parseOperation({ operation: 'image_generation', config: 'stable_diffusion', parameters: {}, priority });
}

/** Browsers that are closed after each test. */
function browsers() {
  const all: Browser[] = [];
  afterEach(() => all.splice(0).forEach((one) => one.close()));
  const browser = () => {
    all.push(new Browser());
    return all.at(-1)!;
  };
  return { browser, open: (): Tab => browser().tab() };
}

async function takeAll(receiver: Tab['receiver'], count: number): Promise<string[]> {
  const taken: string[] = [];
  for (let index = 0; index < count; index += 1) {
    taken.push((await receiver.take()).id);
  }
  return taken;
}

const ENTITY: Entity = {
  run: 'r',
  sequence: 1,
  type: 'input',
  filename: '01_input.json',
  timestamp: '',
  sha256: '',
  metadata: {},
};

/** Stores but never confirms: its tab ended in between. */
class LastWords implements JobStore {
  readonly readAll: JobStore['readAll'];
  readonly read: JobStore['read'];
  readonly #inner: JobStore;
  readonly #last: string;

  /** @param last the record's text that starts with this */
  constructor(inner: JobStore, last = '') {
    this.#inner = inner;
    this.#last = last;
    this.readAll = (prefix) => inner.readAll(prefix);
    this.read = (keys) => inner.read(keys);
  }

  async change(keys: readonly string[], decide: (values: unknown[]) => Writes): Promise<void> {
    let isLast = false;
    await this.#inner.change(keys, (values) => {
      const writes = decide(values);
      isLast = JSON.stringify([...writes.values()]).includes(this.#last);
      return writes;
    });
    if (isLast) {
      await new Promise<never>(() => {});
    }
  }
}

/** Refuses writes that enlarge it. */
class FullStore implements JobStore {
  isFull = false;
  readonly readAll: JobStore['readAll'];
  readonly read: JobStore['read'];
  readonly #inner: JobStore;

  constructor(inner: JobStore) {
    this.#inner = inner;
    this.readAll = (prefix) => inner.readAll(prefix);
    this.read = (keys) => inner.read(keys);
  }

  change(keys: readonly string[], decide: (values: unknown[]) => Writes): Promise<void> {
    const refusal = new StudioError('storage_full', 'There is no space left.', { retry: 'same' });
    return this.isFull ? Promise.reject(refusal) : this.#inner.change(keys, decide);
  }
}

/** Lets the event loop run until there is something. */
async function until<T>(look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  for (;;) {
    const found = await look();
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

/** Holds every job until the test finishes it. */
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

  smaller(): Promise<null> {
    return Promise.resolve(null);
  }

  closeRun(): Promise<void> {
    return Promise.resolve();
  }
}

/** A worker with both ends in this thread; `far` is the worker's side. */
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
