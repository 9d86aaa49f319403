/**
 * The queue of jobs. It has two ends, made together and handed out apart: {@link JobQueue}, which is submitted to,
 * watched and awaited, and {@link JobReceiver}, which an engine drains. The way back travels inside each request.
 */
import type { StudioError } from '../core/errors.ts';
import type { Job, JobEvent } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import { deferred } from './deferred.ts';
import type { Deferred } from './deferred.ts';
import { isFinished, newJob, reduce } from './state.ts';
import type { JobChange } from './state.ts';

/** One job as the engine takes it. After one of `complete` and `fail` it takes no more news. */
export interface JobRequest<Payload> {
  readonly id: string;
  readonly operation: Operation;
  readonly payload: Payload;
  /** Aborted when somebody cancels the job while it runs. */
  readonly signal: AbortSignal;
  report(event: JobEvent): void;
  complete(): void;
  /** `cancelled` ends the job as cancelled, any other code as failed. */
  fail(error: StudioError): void;
}

export interface JobReceiver<Payload> {
  /** The next job in order, which is running from now on; waits while there is none. One taker at a time. */
  take(): Promise<JobRequest<Payload>>;
}

export interface JobQueue<Payload> {
  /** Appends a job behind the pending ones of its own or a higher priority. */
  submit(operation: Operation, payload: Payload): Job;
  /** Resolves with the job when it has ended, in whichever way; rejects when there is no such job. */
  wait(id: string): Promise<Job>;
  get(id: string): Job | undefined;
  /** Finished and running jobs in order of submission, then the pending ones in the order they will run. */
  list(): Job[];
  /** A pending job is dropped at once; a running one is asked to stop. Has no effect on a finished job. */
  cancel(id: string): void;
  /** Puts a pending job before another pending one, or last (null), whatever their priorities. */
  reorder(id: string, before: string | null): void;
  /** Forgets a finished job; its recording stays. Has no effect on others. */
  remove(id: string): void;
  /** Called after every change with the jobs as `list` gives them. Returns the way to unsubscribe. */
  subscribe(listener: (jobs: Job[]) => void): () => void;
}

interface Slot<Payload> {
  job: Job;
  readonly payload: Payload;
  readonly abort: AbortController;
  readonly ended: Deferred<Job>;
}

const RANK: Record<Operation['priority'], number> = { high: 0, normal: 1, low: 2 };

export function createJobQueue<Payload>(options: { now?: () => number; newId?: () => string } = {}): {
  jobs: JobQueue<Payload>;
  receiver: JobReceiver<Payload>;
} {
  const line = new Line<Payload>(options.now ?? Date.now, options.newId ?? (() => crypto.randomUUID()));
  return { jobs: line, receiver: { take: () => line.take() } };
}

/** Both ends. The Map keeps the order of submission, `#pending` the order of running. */
class Line<Payload> implements JobQueue<Payload>, JobReceiver<Payload> {
  readonly #slots = new Map<string, Slot<Payload>>();
  readonly #listeners = new Set<(jobs: Job[]) => void>();
  readonly #now: () => number;
  readonly #newId: () => string;
  #pending: string[] = [];
  #taker: Deferred<JobRequest<Payload>> | null = null;

  constructor(now: () => number, newId: () => string) {
    this.#now = now;
    this.#newId = newId;
  }

  submit(operation: Operation, payload: Payload): Job {
    const job = newJob(this.#newId(), operation, this.#now());
    this.#slots.set(job.id, {
      job,
      payload,
      abort: new AbortController(),
      ended: deferred<Job>(),
    });
    const rank = RANK[operation.priority];
    const place = this.#pending.findLastIndex((id) => RANK[this.#slot(id).job.operation.priority] <= rank) + 1;
    this.#pending.splice(place, 0, job.id);
    this.#tell();
    this.#handOver();
    return this.#slot(job.id).job;
  }

  wait(id: string): Promise<Job> {
    const slot = this.#slots.get(id);
    return slot ? slot.ended.promise : Promise.reject(new Error(`There is no job "${id}".`));
  }

  get(id: string): Job | undefined {
    return this.#slots.get(id)?.job;
  }

  list(): Job[] {
    const begun = [...this.#slots.values()].map(({ job }) => job).filter(({ state }) => state !== 'pending');
    return [...begun, ...this.#pending.map((id) => this.#slot(id).job)];
  }

  cancel(id: string): void {
    const slot = this.#slots.get(id);
    if (slot?.job.state === 'pending') {
      this.#change(slot, { type: 'cancelled', at: this.#now() });
    } else if (slot?.job.state === 'running') {
      slot.abort.abort();
    }
  }

  reorder(id: string, before: string | null): void {
    if (id === before || !this.#pending.includes(id)) {
      return;
    }
    const others = this.#pending.filter((other) => other !== id);
    const place = before === null ? -1 : others.indexOf(before);
    others.splice(place === -1 ? others.length : place, 0, id);
    this.#pending = others;
    this.#tell();
  }

  remove(id: string): void {
    const slot = this.#slots.get(id);
    if (slot && isFinished(slot.job)) {
      this.#slots.delete(id);
      this.#tell();
    }
  }

  subscribe(listener: (jobs: Job[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  take(): Promise<JobRequest<Payload>> {
    this.#taker = deferred<JobRequest<Payload>>();
    const { promise } = this.#taker;
    this.#handOver();
    return promise;
  }

  #handOver(): void {
    const id = this.#pending[0];
    const taker = this.#taker;
    if (id === undefined || taker === null) {
      return;
    }
    this.#taker = null;
    const slot = this.#slot(id);
    this.#change(slot, { type: 'started', at: this.#now() });
    taker.resolve(this.#request(slot));
  }

  #request(slot: Slot<Payload>): JobRequest<Payload> {
    // What still arrives from a worker after the end is old news, not a bug.
    const change = (news: JobChange) => {
      if (!isFinished(slot.job)) {
        this.#change(slot, news);
      }
    };
    return {
      id: slot.job.id,
      operation: slot.job.operation,
      payload: slot.payload,
      signal: slot.abort.signal,
      report: (event) => change({ type: 'event', event }),
      complete: () => change({ type: 'completed', at: this.#now() }),
      fail: (error) =>
        change(
          error.code === 'cancelled'
            ? { type: 'cancelled', at: this.#now() }
            : { type: 'failed', at: this.#now(), error: error.toData() },
        ),
    };
  }

  #change(slot: Slot<Payload>, change: JobChange): void {
    slot.job = reduce(slot.job, change);
    if (slot.job.state !== 'pending') {
      this.#pending = this.#pending.filter((id) => id !== slot.job.id);
    }
    this.#tell();
    if (isFinished(slot.job)) {
      slot.ended.resolve(slot.job);
    }
  }

  #slot(id: string): Slot<Payload> {
    return this.#slots.get(id) as Slot<Payload>;
  }

  #tell(): void {
    const jobs = this.list();
    this.#listeners.forEach((listener) => listener(jobs));
  }
}
