/** An in-memory {@link JobService} whose engine paints nothing, for testing the doors. */
import { createHash } from 'node:crypto';
import { StudioError, cancelled } from '../src/core/errors.ts';
import type { Delta, Job } from '../src/core/job.ts';
import { parseOperation } from '../src/core/operation.ts';
import { JOB_ID } from '../src/jobs/service.ts';
import type { JobService, QueueState } from '../src/jobs/service.ts';
import { isFinished, newJob, reduce } from '../src/jobs/state.ts';
import type { JobChange } from '../src/jobs/state.ts';

export class FakeJobs implements JobService {
  readonly #jobs = new Map<string, Job>();
  readonly #files = new Map<string, Blob>();
  readonly #listeners = new Map<string, Set<(job: Job) => void>>();
  readonly #readers = new Map<string, Set<(delta: Delta) => void>>();
  #pending: string[] = [];
  #isPaused = false;
  #forever: string | null = null;
  #isRunning = false;

  submit(operation: unknown, id: string = crypto.randomUUID()): Promise<Job> {
    return attempt(() => {
      if (!JOB_ID.test(id)) {
        throw new StudioError('invalid_operation', 'A job is called by 1 to 64 letters, digits, "_" or "-".');
      }
      const known = this.#jobs.get(id);
      if (known) {
        return known;
      }
      const job = newJob(id, parseOperation(operation), Date.now());
      this.#jobs.set(id, job);
      this.#pending.push(id);
      void this.#run();
      return job;
    });
  }

  list(): Promise<Job[]> {
    const begun = [...this.#jobs.values()].filter(({ state }) => state !== 'pending');
    return Promise.resolve([...begun, ...this.#pending.map((id) => this.#known(id))]);
  }

  get(id: string): Promise<Job> {
    return attempt(() => this.#known(id));
  }

  wait(id: string): Promise<Job> {
    return new Promise((ended) => this.follow(id, (job) => isFinished(job) && ended(job)));
  }

  follow(id: string, listener: (job: Job) => void): () => void {
    const listeners = this.#listeners.get(id) ?? new Set();
    this.#listeners.set(id, listeners.add(listener));
    listener(this.#known(id));
    return () => listeners.delete(listener);
  }

  deltas(id: string, listener: (delta: Delta) => void): () => void {
    const readers = this.#readers.get(id) ?? new Set();
    this.#readers.set(id, readers.add(listener));
    return () => readers.delete(listener);
  }

  /** Number of current followers of this job. */
  followers(id: string): number {
    return this.#listeners.get(id)?.size ?? 0;
  }

  cancel(id: string): Promise<Job> {
    return attempt(() => {
      if (!isFinished(this.#known(id))) {
        this.#change(id, { type: 'cancelled', at: Date.now() });
      }
      return this.#known(id);
    });
  }

  async cancelAll(): Promise<void> {
    this.#forever = null;
    await Promise.all([...this.#jobs.keys()].map((id) => this.cancel(id)));
  }

  reorder(id: string, before: string | null): Promise<void> {
    const others = this.#pending.filter((other) => other !== id);
    const place = before === null ? -1 : others.indexOf(before);
    others.splice(place === -1 ? others.length : place, 0, id);
    this.#pending = others;
    return Promise.resolve();
  }

  repeat(id: string): Promise<Job> {
    return this.submit(this.#known(id).operation);
  }

  remove(id: string): Promise<void> {
    this.#jobs.delete(id);
    return Promise.resolve();
  }

  forever(id: string | null): Promise<void> {
    return attempt(() => {
      this.#forever = id === null ? null : this.#known(id).id;
    });
  }

  pause(isPaused: boolean): Promise<void> {
    this.#isPaused = isPaused;
    void this.#run();
    return Promise.resolve();
  }

  queue(): Promise<QueueState> {
    return Promise.resolve({ isPaused: this.#isPaused, runs: 'elsewhere', forever: this.#forever });
  }

  entity(run: string, filename: string): Promise<Blob> {
    return attempt(() => {
      const file = this.#files.get(`${run}/${filename}`);
      if (!file) {
        throw new StudioError('invalid_operation', `There is no run "${run}" with a file "${filename}".`);
      }
      return file;
    });
  }

  /** One step of a job per turn of the event loop. */
  async #run(): Promise<void> {
    if (this.#isRunning) {
      return;
    }
    this.#isRunning = true;
    for (let id = this.#next(); id !== undefined; id = this.#next()) {
      this.#change(id, { type: 'started', at: Date.now() });
      await this.#paint(id).catch((error: StudioError) => {
        if (!isFinished(this.#known(id))) {
          this.#change(id, { type: 'failed', at: Date.now(), error: error.toData() });
        }
      });
    }
    this.#isRunning = false;
  }

  #next(): string | undefined {
    return this.#isPaused ? undefined : this.#pending[0];
  }

  async #paint(id: string): Promise<void> {
    const { parameters } = this.#known(id).operation;
    const steps = Number(parameters.steps ?? 1);
    if (!(steps >= 1)) {
      throw new StudioError('invalid_operation', 'steps must be a whole number from 1 to 150.');
    }
    const run = `run_${Date.now()}_${id}`;
    this.#change(id, { type: 'event', event: { type: 'run', run } });
    for (let step = 1; step <= steps; step++) {
      await new Promise((turned) => setImmediate(turned));
      if (isFinished(this.#known(id))) {
        throw cancelled();
      }
      if (parameters.speaks) {
        this.#readers.get(id)?.forEach((read) => read({ step: 'output', text: `${step} `, thinking: step === 1 }));
      }
      const progress = { of: 'output', stage: 'sample', step, steps, fraction: step / steps, secondsLeft: null };
      this.#change(id, { type: 'event', event: { type: 'progress', progress } });
    }
    const given = Object.entries(parameters).flatMap(([, value]) => (value instanceof Blob ? [value.size] : []));
    const content = JSON.stringify([parameters.prompt, parameters.seed, ...given]);
    const sha256 = createHash('sha256').update(content).digest('hex');
    const filename = '01_output_image.png';
    this.#files.set(`${run}/${filename}`, new Blob([content], { type: 'image/png' }));
    const entity = { run, sequence: 1, type: 'output_image', filename, timestamp: '', sha256, metadata: {} };
    this.#change(id, { type: 'event', event: { type: 'entity', entity } });
    this.#change(id, { type: 'completed', at: Date.now() });
  }

  #change(id: string, change: JobChange): void {
    const job = reduce(this.#known(id), change);
    this.#jobs.set(id, job);
    if (job.state !== 'pending') {
      this.#pending = this.#pending.filter((other) => other !== id);
    }
    this.#listeners.get(id)?.forEach((listener) => listener(job));
    if (isFinished(job)) {
      this.#listeners.delete(id);
    }
  }

  #known(id: string): Job {
    const job = this.#jobs.get(id);
    if (!job) {
      throw new StudioError('invalid_operation', `There is no job "${id}".`);
    }
    return job;
  }
}

/** Turns an exception into a rejection. */
function attempt<T>(work: () => T): Promise<T> {
  return new Promise((resolve) => {
    resolve(work());
  });
}
