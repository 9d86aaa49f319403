/** What happens to work whose worker, GPU or memory fails: restarts, the watchdog, resume points, truthful progress. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as Comlink from 'comlink';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { BUILTIN_CHECKPOINTS, DEFAULT_CHECKPOINT } from '../src/core/builtin_checkpoints.ts';
import { StudioError } from '../src/core/errors.ts';
import type { Entity, JobEvent, Offer, Progress, ResumePoint, Stage } from '../src/core/job.ts';
import { JobProgress, stageKey, stagesOf } from '../src/core/job_progress.ts';
import type { StageSeconds } from '../src/core/job_progress.ts';
import { AUTOMATIC_TILE } from '../src/core/model.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, Latents, SampleRequest } from '../src/core/model.ts';
import { parseOperation } from '../src/core/operation.ts';
import { TorchGenerator } from '../src/core/random.ts';
import { smallerThan } from '../src/core/smaller.ts';
import type { Change } from '../src/core/smaller.ts';
import { CpuArithmetic } from '../src/engine/cpu_arithmetic.ts';
import type { OrtModule } from '../src/engine/runtime.ts';
import { expectedSeconds, Speedometer } from '../src/engine/self_measurement.ts';
import { deferred } from '../src/jobs/deferred.ts';
import type { Deferred } from '../src/jobs/deferred.ts';
import { TAKEN } from '../src/jobs/queue.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import type { JobRequest } from '../src/jobs/queue.ts';
import { drain } from '../src/jobs/runner.ts';
import type { Engine, Work } from '../src/jobs/runner.ts';
import { newJob, reduce } from '../src/jobs/state.ts';
import { WorkerLink } from '../src/jobs/worker_link.ts';
import type { WorkerLike } from '../src/jobs/worker_link.ts';
import { WorkerPair } from '../src/jobs/worker_pair.ts';
import type { PairPatience } from '../src/jobs/worker_pair.ts';
import { openModel } from '../src/models/family.ts';
import type { LoadedModel } from '../src/models/family.ts';
import { joinTiles, layTiles } from '../src/models/latent_diffusion/tiles.ts';
import type { SamplingState } from '../src/samplers/state.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength } from '../src/weights/safetensors.ts';
import { resign, serve } from '../workers/connection.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';
import type { ExecuteRequest } from '../workers/generation_api.ts';
import { folderFiles } from './checkpoint_folder.ts';
import { relativeDifference } from './fidelity/fidelity.ts';
import { startNodeEngine } from './node_engine.ts';

const SOURCE: CheckpointSource = { kind: 'builtin', name: BUILTIN_CHECKPOINTS[0].id };
const SOURCES = { [DEFAULT_CHECKPOINT]: SOURCE };
const POINT: ResumePoint = { parameters: { chunk: { seed: '7' } }, state: { chunk: 'chunk', kept: 3 } };
const lost = () => new StudioError('gpu_lost', 'The GPU stopped responding; try again.', { retry: 'same' });
const died = () =>
  new StudioError('worker_failed', 'The generator stopped unexpectedly; try again.', { retry: 'same' });
const at = (stage: Stage): JobEvent => ({
  type: 'progress',
  progress: { of: 'output', stage, step: 1, steps: 4, fraction: 0.1, secondsLeft: 3 },
});

const operation = () =>
  parseOperation({ operation: 'image_generation', config: 'stable_diffusion', parameters: { prompt: 'x' } });

describe('a job whose engine is lost', () => {
  test('goes on in the same run from the last point, and is told so', async () => {
    const { request, engine } = running();
    const first = await engine.next();
    expect(first.work).toMatchObject({ attempt: 1, run: null, point: null });
    first.onEvent({ type: 'run', run: 'r' });
    first.onEvent({ type: 'resume_point', point: { ...POINT, state: null } });
    first.onEvent({ type: 'resume_point', point: POINT });
    first.end.reject(lost());
    const second = await engine.next();
    expect(second.work).toMatchObject({ attempt: 2, run: 'r', point: POINT });
    second.end.resolve();
    expect(await request.ended).toBe('completed');
    expect(request.notices).toEqual(['The GPU was lost; the job goes on from where it was (restart 1 of 3).']);
    expect(engine.closed).toEqual([]);
  });

  test('without a point it begins again, and a worker that died says what happened', async () => {
    const { request, engine } = running();
    (await engine.next()).onEvent(at('load'));
    engine.last?.end.reject(died());
    const second = await engine.next();
    expect(second.work).toMatchObject({ attempt: 2, run: null, point: null });
    expect(request.notices).toEqual([
      'The generator stopped unexpectedly; the job goes on from the beginning (restart 1 of 3).',
    ]);
  });

  test.for([lost, died])('is given up after three restarts, with something smaller', async (error) => {
    const { request, engine } = running();
    for (let attempt = 1; attempt <= 4; attempt++) {
      const call = await engine.next();
      expect(call.work.attempt).toBe(attempt);
      call.onEvent({ type: 'run', run: 'r' });
      call.onEvent({ type: 'resume_point', point: POINT });
      call.onEvent(at('sample'));
      call.end.reject(error());
    }
    expect(await request.ended).toMatchObject({ code: error().code, retry: 'smaller' });
    expect((await request.error).message).toMatch(
      /^The (GPU was lost|generator stopped) 4 times during this job, .+\.$/,
    );
    expect(request.notices).toHaveLength(3);
    expect(request.offers).toEqual([OFFER]);
    expect(engine.asked).toEqual(['sample']);
    expect(engine.closed).toEqual(['r failed']);
  });

  test('lost before anything began is begun again, but a worker that never came up is not', async () => {
    const { request, engine } = running();
    (await engine.next()).end.reject(lost());
    (await engine.next()).end.reject(died());
    expect(await request.ended).toMatchObject({ code: 'worker_failed', retry: 'same' });
    expect(request.attempt).toBe(2);
    expect(request.offers).toEqual([]);
  });

  test.for(['out_of_memory', 'does_not_fit'] as const)('%s is never tried again as it was', async (code) => {
    const { request, engine } = running();
    const call = await engine.next();
    call.onEvent({ type: 'run', run: 'r' });
    call.onEvent(at('decode'));
    call.end.reject(new StudioError(code, 'Too big.', { retry: 'smaller' }));
    expect(await request.ended).toMatchObject({ code });
    expect(request.attempt).toBe(1);
    expect(request.offers).toEqual([OFFER]);
    expect(engine.asked).toEqual([code === 'does_not_fit' ? null : 'decode']);
    expect(engine.closed).toEqual(['r failed']);
  });

  test.for(['result_invalid', 'invalid_operation', 'storage_full', 'internal'] as const)(
    '%s ends it at once, with no offer',
    async (code) => {
      const { request, engine } = running();
      const call = await engine.next();
      call.onEvent(at('sample'));
      call.end.reject(new StudioError(code, 'Wrong.'));
      expect(await request.ended).toMatchObject({ code });
      expect(request.offers).toEqual([]);
    },
  );

  test('ends as it would without an offer when none can be made', async () => {
    const { request, engine } = running();
    engine.offer = () => Promise.reject(new Error('no worker'));
    const call = await engine.next();
    call.onEvent({ type: 'run', run: 'r' });
    call.end.reject(new StudioError('out_of_memory', 'Too big.', { retry: 'smaller' }));
    expect(await request.ended).toMatchObject({ code: 'out_of_memory' });
    expect(request.offers).toEqual([]);
  });

  test('is cancelled whatever its engine ends with, and its run is closed', async () => {
    const { request, engine } = running();
    const call = await engine.next();
    call.onEvent({ type: 'run', run: 'r' });
    request.abort.abort();
    call.end.reject(lost());
    expect(await request.ended).toMatchObject({ code: 'cancelled' });
    expect(engine.closed).toEqual(['r cancelled']);
  });

  test('takes no news of an attempt that is over', async () => {
    const { request, engine } = running();
    const first = await engine.next();
    first.onEvent({ type: 'resume_point', point: POINT });
    first.end.reject(lost());
    const second = await engine.next();
    first.onEvent({ type: 'run', run: 'old' });
    first.onEvent({ type: 'resume_point', point: { parameters: {}, state: 'old' } });
    first.onEvent({ type: 'notice', message: 'Old.' });
    expect(request).toMatchObject({ run: null, point: POINT });
    expect(request.notices).toHaveLength(1);
    second.end.resolve();
    second.onEvent({ type: 'notice', message: 'Late.' });
    expect(await request.ended).toBe('completed');
    second.onEvent({ type: 'notice', message: 'Later.' });
    expect(request.notices).not.toContain('Later.');
  });

  test('an attempt tells again what it finds recorded, and the job has it once', () => {
    const entity: Entity = {
      run: 'r',
      sequence: 1,
      type: 'input',
      filename: '01_input.json',
      timestamp: '',
      sha256: '',
      metadata: {},
    };
    let job = reduce(newJob('a', operation(), 1), { type: 'started', at: 2 });
    for (const event of [
      { type: 'entity', entity },
      { type: 'notice', message: 'Cut.' },
      { type: 'entity', entity: { ...entity } },
      { type: 'notice', message: 'Cut.' },
      { type: 'entity', entity: { ...entity, run: 'other' } },
    ] satisfies JobEvent[]) {
      job = reduce(job, { type: 'event', event });
    }
    expect(job.entities.map(({ run }) => run)).toEqual(['r', 'other']);
    expect(job.notices).toEqual(['Cut.']);
  });

  const OFFER: Offer = { label: 'Try with tiled decoding', operation: operation() };

  interface Call {
    work: Work;
    onEvent: (event: JobEvent) => void;
    end: Deferred<void>;
  }

  /** Holds every attempt until the test ends it. */
  class HeldEngine implements Engine {
    readonly asked: (Stage | null)[] = [];
    readonly closed: string[] = [];
    last: Call | null = null;
    offer: () => Promise<Offer | null> = () => Promise.resolve(OFFER);
    #next = deferred<Call>();

    async next(): Promise<Call> {
      const call = await this.#next.promise;
      this.#next = deferred();
      return call;
    }

    execute(work: Work, onEvent: Call['onEvent']): Promise<void> {
      this.last = { work, onEvent, end: deferred() };
      this.#next.resolve(this.last);
      return this.last.end.promise;
    }

    smaller(_: Work, stage: Stage | null): Promise<Offer | null> {
      this.asked.push(stage);
      return this.offer();
    }

    closeRun({ run }: { run: string | null }, stage: string): Promise<void> {
      if (run !== null) {
        this.closed.push(`${run} ${stage}`);
      }
      return Promise.resolve();
    }
  }

  class HeldRequest implements JobRequest<Record<string, CheckpointSource>> {
    readonly id = 'a';
    readonly submittedAt = 5;
    readonly operation = operation();
    readonly payload = SOURCES;
    readonly abort = new AbortController();
    readonly signal = this.abort.signal;
    readonly notices: string[] = [];
    readonly offers: Offer[] = [];
    attempt = 1;
    run: string | null = null;
    point: ResumePoint | null = null;
    readonly #end = deferred<'completed' | StudioError>();

    get ended(): Promise<'completed' | StudioError> {
      return this.#end.promise;
    }

    get error(): Promise<StudioError> {
      return this.#end.promise as Promise<StudioError>;
    }

    report(event: JobEvent): void {
      if (event.type === 'run') {
        this.run = event.run;
      } else if (event.type === 'resume_point') {
        this.point = event.point;
      } else if (event.type === 'notice') {
        this.notices.push(event.message);
      } else if (event.type === 'offer') {
        this.offers.push(event.offer);
      }
    }

    restart(): void {
      this.attempt += 1;
    }

    complete(): void {
      this.#end.resolve('completed');
    }

    fail(error: StudioError): void {
      this.#end.resolve(error);
    }
  }

  function running() {
    const engine = new HeldEngine();
    const request = new HeldRequest();
    const requests = [request];
    const never = new Promise<HeldRequest>(() => {});
    void drain(
      {
        take: () => {
          const next = requests.shift();
          return next ? Promise.resolve(next) : never;
        },
      },
      engine,
    );
    return { request, engine };
  }
});

/** A worker with both ends in this thread; `far` is the worker's side. */
class FakeWorker implements WorkerLike {
  terminated = false;
  readonly far: MessagePort;
  readonly #near: MessagePort;
  readonly #events = new EventTarget();

  constructor() {
    const { port1, port2 } = new MessageChannel();
    [this.#near, this.far] = [port1, port2];
    this.far.start();
    this.#near.addEventListener('message', ({ data }) => {
      if (!this.terminated) {
        this.#events.dispatchEvent(new MessageEvent<unknown>('message', { data: data as unknown }));
      }
    });
    this.#near.start();
  }

  serve(owner: object): Promise<void> {
    return serve(owner, this.far);
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

describe('the watchdog', () => {
  const made: FakeWorker[] = [];

  // Only the clock that measures silence is faked; messages travel as usual.
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
    made.splice(0).forEach((worker) => worker.terminate());
  });

  /** What the worker's owner can do in these tests. */
  type Owner = {
    hang: () => Promise<never>;
    work: (onProgress: (done: number) => Promise<void>) => Promise<void>;
    answer: () => Promise<string>;
  };

  /** A link to a running worker; `listening` is what its `work` was given. */
  async function linked(patience: { calls?: Partial<Record<keyof Owner, () => number>>; call?: number }) {
    const worker = new FakeWorker();
    made.push(worker);
    const one = new WorkerLink<Owner>('The helper', worker, patience);
    const listening = deferred<(done: number) => Promise<void>>();
    const owner: Owner = {
      hang: () => new Promise(() => {}),
      work: (onProgress) => {
        listening.resolve(onProgress);
        return new Promise(() => {});
      },
      answer: () => Promise.resolve('yes'),
    };
    await worker.serve(owner);
    expect(await one.call('answer')).toBe('yes');
    return { link: one, worker, listening };
  }

  const noting = (told: number[]) =>
    Comlink.proxy((done: number) => {
      told.push(done);
      return Promise.resolve();
    });

  const failureOf = (call: Promise<unknown>) => call.catch((error: unknown) => error);

  /** Lets messages arrive. */
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

  test('ends a worker that is silent for longer than its call may be, and every call with it', async () => {
    const { link: one, worker } = await linked({ calls: { hang: () => 60_000 }, call: 10_000 });
    const calls = [one.call('hang'), one.call('hang')];
    const ends = calls.map(failureOf);
    await turn();
    await vi.advanceTimersByTimeAsync(59_000);
    expect(one.failure).toBeNull();
    await vi.advanceTimersByTimeAsync(10_000);
    for (const end of ends) {
      expect(await end).toMatchObject({
        code: 'worker_failed',
        retry: 'same',
        message: 'The helper does not respond any more; try again.',
        cause: 'no sign of life during hang',
      });
    }
    expect(worker.terminated).toBe(true);
  });

  test('a call to what it was handed is a sign of life; the turning of timers is not', async () => {
    const { link: one, worker, listening } = await linked({ call: 20_000 });
    const told: number[] = [];
    const end = failureOf(one.call('work', noting(told)));
    const tell = await listening.promise;
    for (let done = 1; done <= 5; done++) {
      await vi.advanceTimersByTimeAsync(15_000);
      await tell(done);
    }
    expect(told).toEqual([1, 2, 3, 4, 5]);
    expect(one.failure).toBeNull();
    await vi.advanceTimersByTimeAsync(30_000);
    expect(await end).toMatchObject({ code: 'worker_failed' });
    expect(worker.terminated).toBe(true);
  });

  test('a short call behind a long one has the patience of the long one', async () => {
    const { link: one } = await linked({ calls: { work: () => 100_000 }, call: 5_000 });
    const ends = [failureOf(one.call('work', noting([]))), failureOf(one.call('hang'))];
    await turn();
    await vi.advanceTimersByTimeAsync(90_000);
    expect(one.failure).toBeNull();
    await vi.advanceTimersByTimeAsync(20_000);
    for (const end of ends) {
      expect(await end).toMatchObject({ code: 'worker_failed' });
    }
  });

  test('time in which the machine slept is not silence', async () => {
    const { link: one } = await linked({ call: 60_000 });
    void failureOf(one.call('hang'));
    await turn();
    // The clock jumps; the timer that is due fires once.
    const before = performance.now();
    const clock = vi.spyOn(performance, 'now').mockReturnValue(before + 3_600_000);
    await vi.advanceTimersByTimeAsync(5_000);
    clock.mockRestore();
    expect(one.failure).toBeNull();
  });

  test('rests while nothing waits', async () => {
    const { link: one } = await linked({ call: 1_000 });
    await vi.advanceTimersByTimeAsync(1_000_000);
    expect(one.failure).toBeNull();
    expect(vi.getTimerCount()).toBe(0);
    expect(await one.call('answer')).toBe('yes');
  });

  test('what an ended worker still calls reaches nobody', async () => {
    const { link: one, listening } = await linked({});
    const told: number[] = [];
    const end = failureOf(one.call('work', noting(told)));
    const tell = await listening.promise;
    await tell(1);
    one.terminate(lost());
    // Nobody is left to answer, so it is not awaited.
    void tell(2);
    await turn();
    expect(await end).toMatchObject({ code: 'gpu_lost' });
    expect(told).toEqual([1]);
  });

  test('a worker that says it lost its GPU is ended at once, idle or not', async () => {
    for (const isIdle of [true, false]) {
      const { link: one, worker } = await linked({});
      const call = isIdle ? null : failureOf(one.call('hang'));
      await turn();
      resign(lost(), worker.far);
      expect(await one.ended).toMatchObject({ code: 'gpu_lost', retry: 'same' });
      expect(worker.terminated).toBe(true);
      if (call) {
        expect(await call).toMatchObject({ code: 'gpu_lost' });
      }
    }
  });
});

describe('the pair of workers', () => {
  const made: FakeWorker[] = [];
  afterEach(() => {
    made.splice(0).forEach((worker) => worker.terminate());
  });

  const less = ({ point, stage }: { point: ResumePoint | null; stage: Stage | null }): Promise<Change> =>
    Promise.resolve({ label: 'Less', parameters: { tile_size: 64, said: `${stage} ${point === null}` } });

  const forever = (): Promise<{ run: string }> => new Promise(() => {});

  function pair(patience: Partial<PairPatience> = {}, smaller = less, ends = forever) {
    const executed = deferred<ExecuteRequest>();
    const log: string[] = [];
    const make = (owner: object) => {
      const worker = new FakeWorker();
      made.push(worker);
      void worker.serve(owner);
      return worker;
    };
    const generators: FakeWorker[] = [];
    const workers = new WorkerPair(
      {
        generation: () => {
          generators.push(
            make({
              start: () => Promise.resolve({ backend: 'webgpu', adapter: 'test' }),
              execute: (request: ExecuteRequest) => {
                executed.resolve(request);
                return ends();
              },
              cancel: () => {
                log.push('cancel');
                return Promise.resolve();
              },
              smaller,
            }),
          );
          return generators.at(-1) as FakeWorker;
        },
        language: () => make({}),
        remote: () => Promise.reject(new Error('No other machine is used.')),
        task: () =>
          make({
            connect: () => Promise.resolve(),
            cancel: () => Promise.resolve(),
            execute: (request: ExecuteRequest) => {
              log.push(`task ${request.jobId}`);
              return Promise.resolve({ run: 'r' });
            },
          }),
        recorder: () =>
          make({
            connect: () => Promise.resolve(),
            runOf: (job: string, since: number) => Promise.resolve(job === 'none' ? null : `of ${job} since ${since}`),
            settled: () => Promise.resolve(log.push('settle')),
            resumeRun: (run: string) => Promise.resolve(log.push(`resume ${run}`)),
            closeRun: (run: string, stage: string) => Promise.resolve(log.push(`close ${run} ${stage}`)),
          }),
      },
      patience,
    );
    return { workers, executed, generators, log };
  }

  const work: Work = {
    jobId: 'a',
    submittedAt: 5,
    operation: operation(),
    sources: SOURCES,
    attempt: 2,
    run: 'r',
    point: POINT,
  };

  test('hands on how far earlier attempts came', async () => {
    const { workers, executed } = pair();
    void workers.execute(work, () => undefined, new AbortController().signal).catch(() => undefined);
    expect(await executed.promise).toMatchObject({ jobId: 'a', attempt: 2, run: 'r', point: POINT, inscribes: true });
  });

  test('lets go at once of a job that goes on in another tab, without asking', async () => {
    const { workers, executed, generators, log } = pair();
    const abort = new AbortController();
    const end = workers.execute(work, () => undefined, abort.signal).catch((error: unknown) => error);
    await executed.promise;
    abort.abort(TAKEN);
    expect(await end).toMatchObject({ code: 'cancelled' });
    expect(generators[0].terminated).toBe(true);
    expect(log).toEqual([]);
  });

  test('asks a generator to stop, and ends one that does not', async () => {
    const { workers, executed, generators, log } = pair({ cancel: 1 });
    const abort = new AbortController();
    const end = workers.execute(work, () => undefined, abort.signal).catch((error: unknown) => error);
    await executed.promise;
    abort.abort();
    expect(await end).toMatchObject({ code: 'cancelled' });
    expect(generators[0].terminated).toBe(true);
    expect(log.every((said) => said === 'cancel')).toBe(true);
  });

  test('makes an offer of what a generator knows, and waits for it only so long', async () => {
    const offer = await pair().workers.smaller(work, 'decode');
    expect(offer?.label).toBe('Less');
    expect(offer?.operation.parameters).toEqual({ prompt: 'x', tile_size: 64, said: 'decode false' });
    expect(await pair({ offer: 1 }, () => new Promise(() => {})).workers.smaller(work, 'decode')).toBeNull();
  });

  test('runs a job of language models alone without a generator, and offers nothing smaller for it', async () => {
    const { workers, generators, log } = pair();
    const words: Work = {
      ...work,
      operation: parseOperation({
        operation: 'text_transformation',
        config: 'text_transformation',
        parameters: {},
        checkpoints: { output: 'import:tiny' },
      }),
    };
    await workers.execute(words, () => undefined, new AbortController().signal);
    expect(log).toEqual(['task a']);
    expect(await workers.smaller(words, 'write')).toBeNull();
    expect(generators).toEqual([]);
  });

  test('keeps a generator whose job failed for want of the language engine, and ends one that failed itself', async () => {
    const { workers, generators } = pair({}, less, () =>
      Promise.reject(new StudioError('gpu_lost', 'Gone.', { retry: 'same', engine: 'language' })),
    );
    const end = () =>
      workers.execute(work, () => undefined, new AbortController().signal).catch((error: unknown) => error);
    expect(await end()).toMatchObject({ code: 'gpu_lost', engine: 'language' });
    expect(generators[0].terminated).toBe(false);
    const other = pair({}, less, () => Promise.reject(lost()));
    expect(
      await other.workers.execute(work, () => undefined, new AbortController().signal).catch((error: unknown) => error),
    ).toMatchObject({ code: 'gpu_lost' });
    expect(other.generators[0].terminated).toBe(true);
  });

  test('closes a run that no worker holds any more', async () => {
    const { workers, log } = pair();
    await workers.closeRun(work, 'failed', lost().toData());
    expect(log).toEqual(['resume r', 'close r failed']);
  });

  test('ends the recorder when what follows from the last run is written', async () => {
    const { workers, log } = pair();
    const { recorder } = workers;
    await workers.closeRun(work, 'failed', lost().toData());
    workers.end();
    expect(recorder.failure).toBeNull();
    await recorder.ended;
    expect(log).toEqual(['resume r', 'close r failed', 'settle']);
    expect(workers.recorder).not.toBe(recorder);
  });

  test('closes a run that its worker opened without telling, and none where there is none', async () => {
    const { workers, log } = pair();
    await workers.closeRun({ ...work, run: null }, 'failed', lost().toData());
    expect(log).toEqual(['resume of a since 5', 'close of a since 5 failed']);
    await workers.closeRun({ ...work, jobId: 'none', run: null }, 'failed', lost().toData());
    expect(log).toHaveLength(2);
  });
});

describe('progress', () => {
  const { meta } = catalogue.chunks.output_image_stable_diffusion;
  const KNOWN: StageSeconds = { load: 4, 'output.encode': 1, 'output.sample': 10, 'output.decode': 3, record: 1 };
  const UNKNOWN: StageSeconds = {};

  /** A clock that the test sets. */
  function telling(expected: StageSeconds, steps: number) {
    let now = 100;
    const stages = stagesOf([{ id: 'output', stages: meta.stages }], true).map((stage) =>
      stage.steps === null ? stage : { ...stage, steps },
    );
    const progress = new JobProgress(stages, expected, () => now);
    return { progress, after: (seconds: number) => (now += seconds) };
  }

  const seconds = fc.oneof(fc.double({ min: 0, max: 1e5, noNaN: true }), fc.constant(0), fc.constant(-3));
  const expectation = fc.oneof(fc.constant(null), fc.double({ min: 0, max: 1e6 }), fc.constantFrom(NaN, Infinity, -1));
  const expectations = fc.record({
    load: expectation,
    'output.encode': expectation,
    'output.sample': expectation,
    'output.decode': expectation,
    record: expectation,
  });

  test('never goes back, ends at 1, and the time left is null or a finite number from 0', () => {
    fc.assert(
      fc.property(
        expectations,
        fc.integer({ min: 1, max: 60 }),
        fc.nat(),
        fc.integer({ min: 1, max: 5 }),
        fc.array(fc.tuple(seconds, fc.double({ min: 0, max: 1 })), { minLength: 90, maxLength: 90 }),
        (expected, steps, startsAt, parts, events) => {
          const { progress, after } = telling(expected, steps);
          const said: Progress[] = [];
          let n = 0;
          const pass = () => {
            const [passed, share] = events[n++ % events.length];
            after(passed);
            return share;
          };
          const load = () => said.push(progress.load(pass()));
          load();
          pass();
          said.push(progress.report('output', 'encode'));
          load();
          for (let step = startsAt % (steps + 1); step <= steps; step++) {
            if (pass() > 0.9) {
              load();
            }
            said.push(progress.report('output', 'sample', step, steps));
          }
          load();
          for (let part = 0; part <= parts; part++) {
            pass();
            said.push(progress.report('output', 'decode', part, parts));
          }
          pass();
          said.push(progress.report(null, 'record'));
          pass();
          said.push(progress.finish());
          said.forEach(({ fraction, secondsLeft }, i) => {
            expect(fraction).toBeGreaterThanOrEqual(said[i - 1]?.fraction ?? 0);
            expect(fraction === 1).toBe(i === said.length - 1);
            expect(secondsLeft === null || (Number.isFinite(secondsLeft) && secondsLeft >= 0)).toBe(true);
          });
          expect(said.at(-1)).toEqual({ of: null, stage: 'record', step: 0, steps: 0, fraction: 1, secondsLeft: 0 });
        },
      ),
      { numRuns: 500 },
    );
  });

  test('is exact when everything takes what it was expected to', () => {
    const { progress, after } = telling(KNOWN, 10);
    const said: Progress[] = [progress.load(0)];
    const tell = (passed: number, one: () => Progress) => {
      after(passed);
      said.push(one());
    };
    tell(2, () => progress.load(0.5));
    tell(2, () => progress.load(1));
    tell(0, () => progress.report('output', 'encode'));
    tell(1, () => progress.report('output', 'sample', 0, 10));
    for (let step = 1; step <= 10; step++) {
      tell(1, () => progress.report('output', 'sample', step, 10));
    }
    tell(0, () => progress.report('output', 'decode', 0, 1));
    tell(3, () => progress.report('output', 'decode', 1, 1));
    tell(0, () => progress.report(null, 'record'));
    const left = [19, 17, 15, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 4, 1, 1];
    expect(said.map(({ secondsLeft }) => secondsLeft)).toEqual(left);
    said.forEach(({ fraction }, i) => {
      expect(fraction).toBeCloseTo(1 - left[i] / 19, 10);
    });
    after(1);
    expect(progress.finish().fraction).toBe(1);
    expect(progress.measured).toEqual(KNOWN);
  });

  test('a step that loads a model of its own goes on from loading to its own stages', () => {
    let now = 0;
    const stages = stagesOf(
      [
        { id: 'words', stages: catalogue.chunks.transform_text.meta.stages, loads: true },
        { id: 'output', stages: meta.stages },
      ],
      true,
    );
    expect(stages.map(({ step, stage }) => stageKey(step, stage)).slice(0, 3)).toEqual([
      'load',
      'words.load',
      'words.write',
    ]);
    const progress = new JobProgress(stages, {}, () => (now += 1));
    const said = [
      progress.load(0, 'words'),
      progress.load(0.5, 'words'),
      progress.report('words', 'write', 0, 10),
      progress.report('words', 'write', 10, 10),
      progress.load(1),
      progress.report('output', 'encode'),
    ];
    expect(said[1]).toMatchObject({ of: 'words', stage: 'load', step: 0, steps: 0 });
    said.forEach(({ fraction }, at) => expect(fraction).toBeGreaterThanOrEqual(said[at - 1]?.fraction ?? 0));
    expect(said[1].fraction).toBeGreaterThan(said[0].fraction);
  });

  test('says no time before there is something to measure, and leaves the first step, which compiles, out of the rate', () => {
    const { progress, after } = telling(UNKNOWN, 5);
    const left = (passed: number, one: () => Progress) => {
      after(passed);
      return one().secondsLeft;
    };
    expect(left(3, () => progress.load(1))).toBeNull();
    expect(left(1, () => progress.report('output', 'encode'))).toBeNull();
    expect(left(1, () => progress.report('output', 'sample', 0, 5))).toBeNull();
    expect(left(60, () => progress.report('output', 'sample', 1, 5))).toBeNull();
    // Three steps, plus 2.5 steps' worth for what was never measured.
    expect(left(2, () => progress.report('output', 'sample', 2, 5))).toBeCloseTo(3 * 2 + 2.5 * 2, 10);
  });

  test('counts what an earlier attempt did as done, and not as measured', () => {
    const { progress, after } = telling(KNOWN, 10);
    after(4);
    progress.load(1);
    progress.report('output', 'encode');
    after(1);
    const first = progress.report('output', 'sample', 8, 10);
    expect(first.secondsLeft).toBeCloseTo(2 + 3 + 1, 10);
    after(1);
    progress.report('output', 'sample', 9, 10);
    after(5);
    expect(progress.report('output', 'sample', 10, 10).secondsLeft).toBeCloseTo(3 + 1, 10);
    progress.finish();
    expect(progress.measured).not.toHaveProperty(['output.sample']);
  });

  test('what stages took is remembered for the next job on this device', async () => {
    const kept = new Map<string, unknown>();
    const store = {
      get: (key: string) => Promise.resolve(kept.get(key) as never),
      set: (key: string, value: unknown) => Promise.resolve(void kept.set(key, structuredClone(value))),
    };
    const units = { load: 1000, encode: 1, decode: 64, record: 64 };
    const meter = new Speedometer('a', store);
    await meter.observeStages(units, { load: 2, encode: 0.5, sample: 9, decode: 6.4 });
    await meter.observeStages({ ...units, load: 0 }, { load: 0, encode: 1.5, record: NaN });
    const rates = await new Speedometer('a', store).known();
    expect(expectedSeconds(rates, { ...units, load: 3000, decode: 128 }, null)).toEqual({
      load: 6,
      encode: 1,
      sample: null,
      decode: 12.8,
      record: null,
    });
  });
});

describe('something smaller', () => {
  const request: EstimateRequest = {
    operation: 'image_generation',
    width: 512,
    height: 768,
    batch_size: 1,
    steps: 20,
    guidance_scale: 7.5,
  };
  const offers = (
    stage: Stage | null,
    more: Partial<EstimateRequest> = {},
    {
      known = ['tile_size', 'guidance_mode', 'batch_size', 'weights', 'width', 'height'],
      variant = 'full' as const,
    } = {},
  ) =>
    smallerThan({
      known: new Set(known),
      stage,
      request: { ...request, ...more },
      estimate: { smaller: null } as Estimate,
      checkpoint: { variants: ['full', 'q8', 'q4'] } as unknown as CheckpointSummary,
      variant,
    }).map(({ parameters }) => parameters);

  test('changes what helps where it failed, the least loss first', () => {
    expect(offers('decode')).toEqual([{ tile_size: 384 }, { width: 384, height: 576 }]);
    expect(offers('decode', { tile_size: 384 })[0]).toEqual({ tile_size: 192 });
    expect(offers('decode', { tile_size: 64 })).toEqual([{ width: 384, height: 576 }]);
    expect(offers('sample', { batch_size: 2 })).toEqual([
      { guidance_mode: 'serial' },
      { batch_size: 1 },
      { weights: 'q8' },
      { width: 384, height: 576 },
    ]);
    expect(offers('sample', { guidance_mode: 'serial' })[0]).toEqual({ weights: 'q8' });
    expect(offers('sample', { guidance_scale: 1 })[0]).toEqual({ weights: 'q8' });
    expect(offers('load')).toEqual([{ weights: 'q8' }, { width: 384, height: 576 }]);
    expect(offers(null)[0]).toEqual({ tile_size: 384 });
  });

  test('is always nearer to an end, and never what the chunk does not know', () => {
    expect(offers('load', { width: 64, height: 64 }, { known: ['width', 'height'] })).toEqual([]);
    let size: Partial<EstimateRequest> = { width: 2048, height: 1024 };
    for (let tries = 0; ; tries++) {
      const [next] = offers('record', size, { known: ['width', 'height'] });
      if (!next) {
        expect(tries).toBeGreaterThan(5);
        break;
      }
      expect(next.width).toBeLessThan(size.width as number);
      size = next;
    }
  });
});

/** The bytes of a tensor of a golden. */
function goldenBytes(name: string, tensor: string): Uint8Array<ArrayBuffer> {
  const file = new Uint8Array(readFileSync(join(import.meta.dirname, 'goldens', `${name}.safetensors`)));
  const header = parseSafetensorsHeader(
    file.subarray(8, 8 + safetensorsHeaderLength(file.subarray(0, 8), file.length, name)),
    file.length,
    name,
  );
  const { offset, length } = header.tensors.get(tensor) as { offset: number; length: number };
  return file.slice(offset, offset + length);
}

describe('tiled encoding', () => {
  test('is what diffusers makes of the same picture', async () => {
    const { model } = await open();
    const size = { width: 112, height: 88 };
    const colours = goldenBytes('tiled_encoding', 'picture');
    const data = new Uint8ClampedArray(4 * size.width * size.height).map((_, i) =>
      i % 4 === 3 ? 255 : colours[3 * Math.floor(i / 4) + (i % 4)],
    );
    // The middle of the Gaussian: its sample with noise of zeros.
    const random = Object.assign(new TorchGenerator('1'), {
      ofPosterior: (count: number) => new Float32Array(count),
    });
    const latents = await model.encodeImage({ ...size, data }, { ...size, batch_size: 1, random, tile_size: 64 });
    const given = await latents.read();
    latents.dispose();
    const moments = new Float32Array(goldenBytes('tiled_encoding', 'moments').buffer);
    const unscaled = given.map((value) => value / 0.18215);
    expect(relativeDifference(unscaled, moments.subarray(0, given.length))).toBeLessThan(1e-3);
    await model.release();
  });
});

describe('tiled decoding', () => {
  const golden = (name: string) => new Float32Array(goldenBytes('tiling', name).buffer);
  const SIZE = { height: 11, width: 14 };

  test('is what diffusers makes of the same latents, and near to the whole', async () => {
    const { model, log } = await open();
    const { latents } = await sample(model, { resume: finished(golden('latents')), ...pixels(SIZE) });
    for (const [name, tile_size] of [
      ['tiled', 64],
      ['whole', 2048],
      ['whole', undefined],
    ] as const) {
      const parts: string[] = [];
      const [picture] = await model.decode(latents, {
        tile_size,
        signal: new AbortController().signal,
        onPart: (done, all) => parts.push(`${done}/${all}`),
      });
      expect(difference(picture, golden(name))).toBeLessThanOrEqual(1);
      expect(parts.at(-1)).toBe(tile_size === 64 ? '6/6' : '1/1');
    }
    // Finished latents from an earlier attempt need no denoiser.
    expect(log.created).toBe(['text encoder', '8×8', '8×2', '5×8', '5×2', 'whole'].length);
    latents.dispose();
  });

  test('needs less memory by its own estimate, and in more runs', async () => {
    const { model } = await open();
    const request: EstimateRequest = {
      operation: 'image_generation',
      width: 1024,
      height: 1024,
      batch_size: 1,
      steps: 1,
      guidance_scale: 1,
    };
    const circumstances = {
      device: { backend: 'webgpu', precision: 'f32', limits: null } as never,
      budget: { bytes: 1e12, source: 'set' as const },
      rates: { measured: {}, pictures: {} },
      downloadBytes: 0,
    };
    const memory = async (tile_size?: number) =>
      (await model.estimate({ ...request, tile_size }, circumstances)).variants[0].memory;
    const [whole, tiled] = [await memory(), await memory(128)];
    // But for a few numbers that the graphs hold for their sizes.
    expect(Math.abs(tiled.weights - whole.weights)).toBeLessThan(1024);
    expect(tiled.activations).toBeLessThan((whole.activations ?? 0) / 2);
  });

  test('is chosen where the picture cannot be decoded as a whole, and only there', async () => {
    const { model } = await open();
    const request: EstimateRequest = {
      operation: 'image_generation',
      width: 1024,
      height: 1024,
      batch_size: 1,
      steps: 1,
      guidance_scale: 1,
    };
    const estimated = (limit: number, asked: EstimateRequest = request) =>
      model.estimate(asked, {
        device: {
          backend: 'webgpu',
          precision: 'f32',
          limits: { maxBufferSize: limit, maxStorageBufferBindingSize: limit },
        } as never,
        budget: { bytes: 1e12, source: 'set' as const },
        rates: { measured: {}, pictures: {} },
        downloadBytes: 0,
      });
    const { largestTensor } = (await estimated(1e12)).variants[0];
    expect((await estimated(largestTensor)).request).toEqual(request);
    const tiled = await estimated(largestTensor - 1);
    expect(tiled.request).toEqual({ ...request, tile_size: AUTOMATIC_TILE });
    expect(tiled.recommended).toBe('full');
    // Not even tiles help: the request itself is refused.
    expect((await estimated(1)).request).toEqual(request);
  });

  test('covers the picture once, at every size', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 90 }),
        fc.integer({ min: 1, max: 90 }),
        fc.constantFrom(8, 12, 16, 64),
        (height, width, side) => {
          const tiles = layTiles({ height, width }, side);
          // Tiles cut from one picture blend to that picture.
          const value = (c: number, y: number, x: number) => Math.fround(Math.sin(c + y * 0.7 + x * 0.3));
          const cut = tiles.map((tile) => ({
            tile,
            pixels: Float32Array.from({ length: 3 * tile.height * tile.width }, (_, i) => {
              const plane = tile.height * tile.width;
              const y = Math.floor((i % plane) / tile.width);
              return value(Math.floor(i / plane), tile.top + y, tile.left + (i % tile.width));
            }),
          }));
          const picture = joinTiles(cut, { height, width }, side, 1);
          expect(picture.length).toBe(3 * height * width);
          const worst = picture.reduce((most, one, i) => {
            const y = Math.floor((i % (height * width)) / width);
            return Math.max(most, Math.abs(one - value(Math.floor(i / (height * width)), y, i % width)));
          }, 0);
          expect(worst).toBeLessThanOrEqual(1e-6);
        },
      ),
    );
  });

  test('of latents with NaN, or of nothing at all, is an error and no picture', async () => {
    const { model } = await open();
    const { latents } = await sample(model, { resume: finished(golden('latents')), ...pixels(SIZE) });
    const { tensor } = latents as unknown as { tensor: { ort: { data: Float32Array } } };
    tensor.ort.data[3] = NaN;
    for (const tile_size of [64, undefined]) {
      const decoded = model.decode(latents, {
        tile_size,
        signal: new AbortController().signal,
        onPart: () => undefined,
      });
      await expect(decoded).rejects.toMatchObject({ code: 'result_invalid' });
    }
    const arithmetic = new CpuArithmetic({ Tensor: class {} } as unknown as OrtModule);
    const [zeros, noise] = [arithmetic.empty([1, 3, 2, 2]), arithmetic.upload(Float32Array.of(1), [1])];
    await expect(arithmetic.toPixels(zeros, noise)).rejects.toMatchObject({ code: 'result_invalid', retry: 'same' });
    await expect(arithmetic.toPixels(noise, arithmetic.upload(Float32Array.of(Infinity), [1]))).rejects.toMatchObject({
      code: 'result_invalid',
    });
  });

  /** The state of tiny-sd15's own sampling after its last step. */
  function finished(x: Float32Array<ArrayBuffer>): SamplingState {
    return {
      sampler: 'plms',
      schedule: 'leading',
      steps: 3,
      done: 3,
      x,
      history: new Float32Array(3 * x.length),
      random: new TorchGenerator('1').state,
    };
  }
});

describe('sampling', () => {
  test('that was broken off goes on to the same latents, to the bit, from a picture and inside of a mask too', async () => {
    const { model } = await open();
    const clock = vi.spyOn(performance, 'now');
    let now = 0;
    // Every step is worth saving.
    clock.mockImplementation(() => (now += 1000));
    const picture = {
      width: 64,
      height: 64,
      data: Uint8ClampedArray.from({ length: 64 * 64 * 4 }, (_, i) => (i * 37) % 256),
    };
    for (const inpaints of [false, true]) {
      const settings = { steps: 6, width: 64, height: 64, guidance_scale: 3, ...(inpaints && { picture }) };
      const undisturbed = await sample(model, settings);
      const expected = bits(await undisturbed.latents.read());
      expect(undisturbed.kept.map(({ done }) => done)).toEqual([1, 2, 3, 4, 5, 6, 7, 7]);
      for (const state of undisturbed.kept.slice(0, -1)) {
        const steps: number[] = [];
        const again = await sample(model, {
          ...settings,
          resume: structuredClone(state),
          onStep: ({ step }) => void steps.push(step),
        });
        expect(bits(await again.latents.read())).toEqual(expected);
        expect(steps).toEqual([1, 2, 3, 4, 5, 6, 7].slice(state.done));
      }
      const foreign = await sample(model, { ...settings, resume: { ...undisturbed.kept[2], sampler: 'euler' } });
      expect(bits(await foreign.latents.read())).toEqual(expected);
    }
    clock.mockRestore();
  });

  test('keeps no state faster than it is worth it, but always the last', async () => {
    const { model } = await open();
    const clock = vi.spyOn(performance, 'now');
    let now = 0;
    clock.mockImplementation(() => now);
    const onStep = () => void (now += 200);
    const { kept } = await sample(model, { steps: 8, width: 64, height: 64, guidance_scale: 1, onStep });
    clock.mockRestore();
    expect(kept.map(({ done }) => done)).toEqual([1, 4, 7, 9]);
  });

  test('tells what was really encoded', async () => {
    const { model } = await open();
    const text = async (prompt: string, guidance_scale: number) =>
      (await model.encodeText({ prompt, negative_prompt: 'Blurry', guidance_scale, batch_size: 1 })).texts;
    expect(await text('A  Cat,', 1)).toEqual({ prompt: 'a cat ,', negative: null });
    expect(await text('', 2)).toEqual({ prompt: '', negative: 'blurry' });
    const long = await text('cat '.repeat(100), 2);
    expect(long.prompt).toBe('cat '.repeat(75).trim());
  });
});

const pixels = ({ height, width }: { height: number; width: number }) => ({ height: 8 * height, width: 8 * width });

async function open() {
  const { engine, log } = startNodeEngine();
  return {
    model: await openModel(folderFiles(join(import.meta.dirname, 'checkpoints', 'tiny-sd15')), engine),
    log,
  };
}

async function sample(
  model: LoadedModel,
  settings: Partial<SampleRequest> & { picture?: SampleRequest['mask'] },
): Promise<{ latents: Latents; kept: SamplingState[] }> {
  const { picture, ...more } = settings;
  const request = {
    width: 64,
    height: 64,
    batch_size: 1,
    steps: 2,
    guidance_scale: 1,
    random: new TorchGenerator('3'),
    ...more,
  };
  const text = await model.encodeText({ ...request, prompt: 'a cat', negative_prompt: '' });
  const start = picture && (await model.encodeImage(picture, request));
  const kept: SamplingState[] = [];
  const latents = await model.sample(text, {
    strength: 1,
    guidance_mode: 'auto',
    start,
    mask: picture,
    previews: false,
    signal: new AbortController().signal,
    resume: null,
    keep: (state) => void kept.push(state as SamplingState),
    onStart: () => undefined,
    onStep: () => undefined,
    ...request,
  });
  return { latents, kept };
}

function bits(values: Float32Array): number[] {
  return [...new Uint32Array(values.buffer, values.byteOffset, values.length)];
}

/** Largest byte difference between the picture and [3, height, width] values around [-1, 1]. */
function difference(
  { width, height, data }: { width: number; height: number; data: Uint8ClampedArray },
  of: Float32Array,
) {
  expect(of.length).toBe(3 * width * height);
  return of.reduce((most, value, i) => {
    const byte = Math.round(Math.min(Math.max(value / 2 + 0.5, 0), 1) * 255);
    return Math.max(most, Math.abs(byte - data[(i % (width * height)) * 4 + Math.floor(i / (width * height))]));
  }, 0);
}
