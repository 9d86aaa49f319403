/**
 * What every door offers: the page, the service worker's routes, the channel and the command line all call exactly this, and one contract
 * suite runs through each. Everything here survives structured clone.
 */
import type { Delta, Job } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';

/** The format of job ids chosen by whoever submits. */
export const JOB_ID = /^[A-Za-z0-9_-]{1,64}$/;

export interface QueueState {
  /** No further job starts; a running one continues. */
  isPaused: boolean;
  /** Who runs jobs: this tab, another one, or nobody (no Darkroom tab is open). */
  runs: 'here' | 'elsewhere' | 'nowhere';
  /** The job whose operation is resubmitted with a new seed whenever one made from it completes; null = none. */
  forever: string | null;
}

/** Errors are StudioErrors; an unknown job is `invalid_operation`. */
export interface JobService {
  /**
   * Accepts an operation, which is durably queued once this resolves. The chunk that runs it validates its parameters.
   * @param id chosen by whoever submits (see {@link JOB_ID}), so that submitting can be retried: if the job already exists, it is returned
   * and nothing is submitted. Absent = a new id
   * @throws StudioError `invalid_operation`, naming the field at fault; `storage_full`
   */
  submit(operation: Operation, id?: string): Promise<Job>;
  /** Ended and running jobs by submission, then waiting ones in the order they will run. */
  list(): Promise<Job[]>;
  get(id: string): Promise<Job>;
  /** Resolves with the job once it has ended in any way. */
  wait(id: string): Promise<Job>;
  /** Reports the job now and after every change until it ends. Returns a function that stops. */
  follow(id: string, listener: (job: Job) => void): () => void;
  /**
   * Streams a running job's words, starting with those so far. A restarted job, whose `attempts` grow, streams them from the start.
   * Returns a function that stops.
   */
  deltas(id: string, listener: (delta: Delta) => void): () => void;
  /** Drops a waiting job, or stops a running one at its next step. No effect on an ended one. Resolves once stored. */
  cancel(id: string): Promise<Job>;
  /** Cancels all waiting and running jobs, and ends `forever`. */
  cancelAll(): Promise<void>;
  /** Moves a waiting job before another, or to the end (null), regardless of priority. */
  reorder(id: string, before: string | null): Promise<void>;
  /** Submits a known job's operation again, as a new job. */
  repeat(id: string): Promise<Job>;
  /** Forgets an ended job; its recording stays. */
  remove(id: string): Promise<void>;
  /** Generates from this job's operation repeatedly; null stops. */
  forever(id: string | null): Promise<void>;
  pause(isPaused: boolean): Promise<void>;
  queue(): Promise<QueueState>;
  /** One recorded file. */
  entity(run: string, filename: string): Promise<Blob>;
}
