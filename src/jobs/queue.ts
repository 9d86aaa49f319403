/**
 * The queue of jobs. It has two ends, created together and handed out separately: {@link StoredJobs}, to submit, watch and await from
 * anywhere, and {@link JobReceiver}, drained by one tab's engine. Each request carries its response channel.
 */
import { StudioError } from '../core/errors.ts';
import type { JobEvent, ResumePoint } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import { deferred } from './deferred.ts';
import { isFinished, reduce } from './state.ts';
import type { JobChange } from './state.ts';
import type { StoredJob } from './stored_job.ts';
import type { Draft } from './draft.ts';
import type { StoredJobs } from './stored_jobs.ts';
import type { Turn } from './turn.ts';

/** The reason for stopping a job that continues in another tab. */
export const TAKEN = 'taken';

/** One job as the engine receives it. After `complete` or `fail` it accepts no more reports. */
export interface JobRequest<Payload> {
  readonly id: string;
  /** Milliseconds since 1970. */
  readonly submittedAt: number;
  readonly operation: Operation;
  readonly payload: Payload;
  /** Aborted when somebody cancels the job while it runs, and, with the reason {@link TAKEN}, when another tab takes over. */
  readonly signal: AbortSignal;
  /** Number of attempts, from 1; grows with `restart`. */
  readonly attempt: number;
  /** The run it records into, if any, possibly from an earlier attempt. */
  readonly run: string | null;
  /** Where it can resume, as last reported, possibly by an earlier attempt. */
  readonly point: ResumePoint | null;
  report(event: JobEvent): void;
  /** Its engine ended, and another continues the job. */
  restart(): void;
  complete(): void;
  /** `cancelled` ends the job as cancelled, or requeues it if another tab took over; any other code ends it as failed. */
  fail(error: StudioError): void;
}

export interface JobReceiver<Payload> {
  /** Takes the next job, which then counts as running; waits while there is none or another tab has the turn. One caller at a time. */
  take(): Promise<JobRequest<Payload>>;
}

/** A job's checkpoint or language model; or a sentence on why it must wait; or why it will never be found, and a replacement. */
export type Answer<Source> =
  | { type: 'found'; payload: Source }
  | { type: 'obstacle'; sentence: string }
  | { type: 'gone'; sentence: string; instead: { ref: string; name: string } };

/** Called when a job's turn comes, for each ref its operation names. */
export type Resolve<Source> = (ref: string) => Promise<Answer<Source>>;

/** Which jobs a receiver takes. Several receivers drain one queue in parallel, each taking different jobs. */
export interface Lane {
  takes: (operation: Operation) => boolean;
  /** Refs of what an operation runs on. */
  refs: (operation: Operation) => readonly string[];
}

/** Every job, each on its one checkpoint. */
const EVERYTHING: Lane = {
  takes: () => true,
  refs: ({ checkpoint }) => (checkpoint === null ? [] : [checkpoint]),
};

/** How long a tab may take to release a job after losing the turn, in milliseconds. */
const LET_GO_WITHIN = 1000;

/** Delay before retrying a database that did not answer, in milliseconds. */
const AGAIN_AFTER = 1000;

/** The shortest interval for storing progress, in milliseconds. */
const PROGRESS_EVERY = 500;

/** What a job runs on, by ref. */
export type Sourced<Source> = Record<string, Source>;

export class Receiver<Source> implements JobReceiver<Sourced<Source>> {
  readonly #jobs: StoredJobs;
  readonly #turn: Turn;
  readonly #resolve: Resolve<Source>;
  readonly #lane: Lane;
  readonly #now: () => number;
  /** Refs that currently cannot be found. */
  readonly #obstacles = new Map<string, string>();
  #current: RunningJob<Sourced<Source>> | null = null;
  #settling: { token: string; done: Promise<void> } | null = null;
  #news = deferred<void>();

  constructor(
    jobs: StoredJobs,
    turn: Turn,
    resolve: Resolve<Source>,
    { lane = EVERYTHING, now = Date.now }: { lane?: Lane; now?: () => number } = {},
  ) {
    this.#jobs = jobs;
    this.#turn = turn;
    this.#resolve = resolve;
    this.#lane = lane;
    this.#now = now;
    jobs.subscribe(() => this.#look());
    turn.onChange(() => this.#look());
    void this.#enter();
  }

  async take(): Promise<JobRequest<Sourced<Source>>> {
    await this.#current?.written();
    this.#current = null;
    for (;;) {
      const news = this.#news.promise;
      const { token } = this.#turn;
      try {
        if (token !== null) {
          await this.#settled(token);
          const request = await this.#next(token);
          if (request) {
            return request;
          }
        }
        await news;
      } catch {
        // The database is not answering. A job is not started before that is stored.
        const pause = deferred<void>();
        setTimeout(pause.resolve, AGAIN_AFTER);
        await pause.promise;
      }
    }
  }

  /** Call when a checkpoint or language model has become available. */
  found(ref: string): void {
    this.#obstacles.delete(ref);
    this.#look();
  }

  async #enter(): Promise<void> {
    if (await this.#jobs.isShared()) {
      this.#turn.enter();
      await this.#jobs.queue();
    } else {
      // Other tabs' locks do not matter to jobs that only this tab knows.
      this.#turn.enterAlone();
    }
    this.#look();
  }

  #look(): void {
    const { token } = this.#turn;
    if (token !== null) {
      this.#jobs.setRuns('here');
      // The queue shows it at once, even while the engine here is still busy.
      this.#settled(token).catch(() => undefined);
    } else if (this.#jobs.state.runs === 'here') {
      this.#jobs.setRuns('elsewhere');
    }
    this.#current?.look(token);
    const { resolve } = this.#news;
    this.#news = deferred();
    resolve();
  }

  #settled(token: string): Promise<void> {
    if (this.#settling?.token !== token) {
      const settling = { token, done: this.#settle(token) };
      this.#settling = settling;
      settling.done.catch(() => {
        this.#settling = null;
      });
    }
    return this.#settling?.done ?? Promise.resolve();
  }

  /** Requeues jobs whose runner is gone or had to release them. */
  async #settle(token: string): Promise<void> {
    await this.#jobs.refresh();
    const left = () => this.#jobs.running().filter(({ runner }) => runner !== token);
    if (this.#turn.wasTaken && left().length > 0) {
      await this.#letGo(() => left().length === 0);
    }
    const ids = left().map(({ job }) => job.id);
    await this.#jobs.commit(ids, (draft) => {
      for (const stored of ids.map((id) => draft.get(id))) {
        if (stored?.job.state === 'running') {
          this.#jobs.settle(
            draft,
            stored,
            stored.isCancelled ? { type: 'cancelled', at: this.#now() } : { type: 'interrupted' },
          );
        }
      }
    });
  }

  async #letGo(isDone: () => boolean): Promise<void> {
    const over = deferred<void>();
    const patience = setTimeout(over.resolve, LET_GO_WITHIN);
    const stop = this.#jobs.subscribe(() => isDone() && over.resolve());
    await over.promise;
    stop();
    clearTimeout(patience);
  }

  async #next(token: string): Promise<RunningJob<Sourced<Source>> | null> {
    const found = new Map<string, Source>();
    for (;;) {
      if (this.#turn.token !== token || this.#jobs.state.isPaused) {
        return null;
      }
      const first = await this.#firstFree();
      if (!first) {
        return null;
      }
      const { id } = first.job;
      const refs = this.#lane.refs(first.job.operation);
      const missing = refs.find((ref) => !found.has(ref));
      if (missing === undefined) {
        const payload = Object.fromEntries([...found].filter(([ref]) => refs.includes(ref)));
        const stored = await this.#start(id, token);
        if (stored) {
          // Nobody has left a point in a first attempt.
          const point = stored.job.attempts > 1 ? await this.#jobs.point(id) : null;
          this.#current = new RunningJob(this.#jobs, stored, payload, point, this.#now);
          this.#current.look(this.#turn.token);
          return this.#current;
        }
        if (this.#jobs.stored(id)?.job.state === 'pending') {
          // Another tab has changed it, and its message has not arrived yet. What another lane here took is known.
          await this.#jobs.refresh();
        }
        continue;
      }
      const answer = await this.#resolve(missing);
      if (answer.type === 'found') {
        found.set(missing, answer.payload);
      } else if (answer.type === 'obstacle') {
        this.#obstacles.set(missing, answer.sentence);
      } else {
        await this.#refuse(id, token, missing, answer);
      }
    }
  }

  /** Fails a waiting job that would otherwise wait forever. */
  async #refuse(
    id: string,
    token: string,
    ref: string,
    { sentence, instead }: Answer<Source> & { type: 'gone' },
  ): Promise<void> {
    if (!(await this.#start(id, token))) {
      await this.#jobs.refresh();
      return;
    }
    await this.#jobs.commit([id], (draft) => {
      const stored = draft.get(id);
      if (stored?.runner === token && stored.job.state === 'running') {
        const operation = withSource(stored.job.operation, ref, instead.ref);
        const job = reduce(stored.job, {
          type: 'event',
          event: { type: 'offer', offer: { label: `Try with ${instead.name}`, operation } },
        });
        const error = new StudioError('checkpoint_incomplete', sentence).toData();
        this.#jobs.settle(draft, { ...stored, job }, { type: 'failed', at: this.#now(), error });
      }
    });
  }

  /** Tells the jobs before it why they wait. */
  async #firstFree(): Promise<StoredJob | null> {
    for (const stored of this.#jobs.waiting().filter(({ job }) => this.#lane.takes(job.operation))) {
      const [obstacle] = this.#lane.refs(stored.job.operation).flatMap((ref) => this.#obstacles.get(ref) ?? []);
      if (obstacle === undefined) {
        return stored;
      }
      if (stored.job.obstacle !== obstacle) {
        await this.#jobs.commit([stored.job.id], (draft) => {
          const now = draft.get(stored.job.id);
          if (now?.job.state === 'pending') {
            draft.put({ ...now, job: reduce(now.job, { type: 'held', obstacle }) });
          }
        });
      }
    }
    return null;
  }

  /** Null if it was just cancelled, or the queue paused. */
  async #start(id: string, token: string): Promise<StoredJob | null> {
    let started: StoredJob | null = null;
    await this.#jobs.commit([id], (draft) => {
      const stored = draft.get(id);
      if (stored?.job.state === 'pending' && !draft.queue.isPaused) {
        draft.put({
          ...stored,
          job: reduce(stored.job, { type: 'started', at: this.#now() }),
          runner: token,
          isCancelled: false,
        });
        started = draft.get(id) ?? null;
      }
    });
    return started;
  }
}

/** The operation with this checkpoint replaced by another. */
function withSource(operation: Operation, ref: string, instead: string): Operation {
  const other = (named: string) => (named === ref ? instead : named);
  const { checkpoint, checkpoints } = operation;
  return {
    ...operation,
    checkpoint: checkpoint === null ? null : other(checkpoint),
    ...(checkpoints === undefined
      ? {}
      : { checkpoints: Object.fromEntries(Object.entries(checkpoints).map(([step, named]) => [step, other(named)])) }),
  };
}

type Change = (draft: Draft, stored: StoredJob) => void;

/** A job running in this tab. Its changes are stored in order. */
class RunningJob<Payload> implements JobRequest<Payload> {
  readonly id: string;
  readonly submittedAt: number;
  readonly operation: Operation;
  readonly payload: Payload;
  attempt: number;
  run: string | null;
  point: ResumePoint | null;
  readonly #jobs: StoredJobs;
  readonly #token: string;
  readonly #now: () => number;
  readonly #abort = new AbortController();
  #writing: Promise<void> = Promise.resolve();
  /** Changes that the next transaction takes along. */
  #unwritten: { change: Change; otherwise: (error: StudioError) => void }[] = [];
  #isOver = false;
  #isTaken = false;
  #unwrittenPoint = false;
  #progressWrittenAt = -Infinity;

  constructor(jobs: StoredJobs, stored: StoredJob, payload: Payload, point: ResumePoint | null, now: () => number) {
    const { job, runner } = stored;
    this.id = job.id;
    this.submittedAt = job.submittedAt;
    this.operation = job.operation;
    this.payload = payload;
    this.attempt = job.attempts;
    this.run = job.run;
    this.point = point;
    this.#jobs = jobs;
    this.#token = runner ?? '';
    this.#now = now;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  report(event: JobEvent): void {
    // Messages that arrive from a worker after the end are late, not a bug.
    if (this.#isOver) {
      return;
    }
    if (event.type === 'resume_point') {
      this.point = event.point;
      this.#writePoint();
      return;
    }
    if (event.type === 'delta') {
      this.#jobs.delta(this.id, this.attempt, event);
      return;
    }
    if (event.type === 'sound') {
      this.#jobs.sound(this.id, this.attempt, event);
      return;
    }
    if (event.type === 'progress') {
      this.#jobs.progress(this.id, this.attempt, event.progress);
      if (this.#now() - this.#progressWrittenAt < PROGRESS_EVERY) {
        return;
      }
      this.#progressWrittenAt = this.#now();
    } else if (event.type === 'run') {
      this.run = event.run;
    }
    this.#write({ type: 'event', event });
  }

  restart(): void {
    if (!this.#isOver) {
      this.attempt += 1;
      this.#write({ type: 'restarted', at: this.#now() });
    }
  }

  complete(): void {
    this.#end({ type: 'completed', at: this.#now() });
  }

  fail(error: StudioError): void {
    if (this.#isTaken) {
      this.#end({ type: 'interrupted' });
    } else if (error.code === 'cancelled') {
      this.#end({ type: 'cancelled', at: this.#now() });
    } else {
      this.#end({ type: 'failed', at: this.#now(), error: error.toData() });
    }
  }

  /** Stops if requested, or if the turn is no longer ours. */
  look(token: string | null): void {
    const stored = this.#jobs.stored(this.id);
    this.#isTaken ||= token !== this.#token;
    if (!this.#isOver && (this.#isTaken || stored?.isCancelled || stored?.runner !== this.#token)) {
      this.#abort.abort(this.#isTaken ? TAKEN : undefined);
    }
  }

  /** Resolves when everything reported so far is written down. */
  async written(): Promise<void> {
    await this.#writing;
  }

  #end(change: JobChange): void {
    if (!this.#isOver) {
      this.#isOver = true;
      this.#write(change);
    }
  }

  #write(change: JobChange): void {
    this.#change(
      (draft, stored) => {
        // A requested cancel wins over another tab continuing the job.
        const isCancelled = change.type === 'interrupted' && stored.isCancelled;
        this.#jobs.settle(draft, stored, isCancelled ? { type: 'cancelled', at: this.#now() } : change);
      },
      (error) => this.#jobs.assume(this.id, change, error),
    );
  }

  /** If points arrive faster than they are stored, only the last one counts. */
  #writePoint(): void {
    if (!this.#unwrittenPoint) {
      this.#unwrittenPoint = true;
      this.#change(
        (draft) => {
          this.#unwrittenPoint = false;
          draft.point(this.id, this.point);
        },
        // Then it resumes from an earlier one.
        () => (this.#unwrittenPoint = false),
      );
    }
  }

  #change(change: Change, otherwise: (error: StudioError) => void): void {
    this.#unwritten.push({ change, otherwise });
    if (this.#unwritten.length === 1) {
      this.#writing = this.#writing.then(() => this.#writeAll());
    }
  }

  /** What has gathered while the last transaction was stored, in one. */
  async #writeAll(): Promise<void> {
    const changes = this.#unwritten.splice(0);
    try {
      await this.#jobs.commit([this.id], (draft) => {
        for (const { change } of changes) {
          const stored = draft.get(this.id);
          // The tab that took over decides what happens now.
          if (stored?.runner === this.#token && !isFinished(stored.job)) {
            change(draft, stored);
          }
        }
      });
    } catch (error) {
      changes.forEach(({ otherwise }) => otherwise(StudioError.from(error)));
    }
  }
}
