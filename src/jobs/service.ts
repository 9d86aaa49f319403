/**
 * What every door offers: the page, the routes of the service worker, the channel and the command line call exactly this, and
 * one contract suite runs through each of them. Everything here survives structured clone, so it can cross any of them.
 */
import type { Delta, Job } from '../core/job.ts';

/** What a job may be called by whoever submits it. */
export const JOB_ID = /^[A-Za-z0-9_-]{1,64}$/;

export interface QueueState {
  /** No further job is begun; a running one goes on. */
  isPaused: boolean;
  /** Who runs jobs: this tab, another one, or nobody (no tab of Darkroom is open). */
  runs: 'here' | 'elsewhere' | 'nowhere';
  /** The job whose operation is submitted anew, with another seed, whenever one made from it has completed; null = none. */
  forever: string | null;
}

/** Errors are StudioErrors; a job that is not known is `invalid_operation`. */
export interface JobService {
  /**
   * Accepts an operation; it is in the queue for good when this resolves. Its parameters are checked by the chunk that runs it.
   * @param id the job's, chosen by whoever submits (see {@link JOB_ID}), so that submitting may be tried again: when there is a job of this
   *   name already, that one is the answer and nothing is submitted. Left out = a new one
   * @throws StudioError `invalid_operation`, naming the field at fault; `storage_full`
   */
  submit(operation: unknown, id?: string): Promise<Job>;
  /** Ended and running jobs in order of submission, then the waiting ones in the order in which they will run. */
  list(): Promise<Job[]>;
  get(id: string): Promise<Job>;
  /** Resolves with the job when it has ended, in whichever way. */
  wait(id: string): Promise<Job>;
  /** Tells the job now and after every change until it has ended. Returns the way to stop. */
  follow(id: string, listener: (job: Job) => void): () => void;
  /**
   * Tells the words that a running job says while they come into being, those so far at once. A job that is begun anew, whose `attempts` grow,
   * says them anew. Returns the way to stop.
   */
  deltas(id: string, listener: (delta: Delta) => void): () => void;
  /** Drops a waiting job; a running one stops at its next step. No effect on an ended one. Resolves when that is written down. */
  cancel(id: string): Promise<Job>;
  /** Every waiting and running one; also ends `forever`. */
  cancelAll(): Promise<void>;
  /** Puts a waiting job before another one, or last (null), whatever their priorities. */
  reorder(id: string, before: string | null): Promise<void>;
  /** Submits the operation of a known job once more, as a new job. */
  repeat(id: string): Promise<Job>;
  /** Forgets an ended job; its recording stays. */
  remove(id: string): Promise<void>;
  /** Generates from this job's operation again and again; null ends that. */
  forever(id: string | null): Promise<void>;
  pause(isPaused: boolean): Promise<void>;
  queue(): Promise<QueueState>;
  /** One recorded file. */
  entity(run: string, filename: string): Promise<Blob>;
}
