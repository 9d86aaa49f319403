/** Who wants to hear of jobs in this tab: of all of them, of one until it has ended, or of one's end only. */
import { StudioError } from '../core/errors.ts';
import type { Job } from '../core/job.ts';
import { deferred } from './deferred.ts';
import type { Deferred } from './deferred.ts';
import type { QueueState } from './service.ts';
import { isFinished } from './state.ts';

/** What watchers are told. */
export interface QueueView {
  jobs: Job[];
  /** Ids of the jobs that this is about; forgotten ones, too. */
  changed: ReadonlySet<string>;
  queue: QueueState;
}

type Follower = (job: Job) => void;

export class JobWatchers {
  readonly #listeners = new Set<(view: QueueView) => void>();
  readonly #followers = new Map<string, Set<Follower>>();
  readonly #waiters = new Map<string, Deferred<Job>>();

  get isEmpty(): boolean {
    return this.#listeners.size + this.#followers.size + this.#waiters.size === 0;
  }

  /** Returns the way to stop. */
  subscribe(listener: (view: QueueView) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The same listener may follow twice. @return `tell` tells this one alone, as long as it follows */
  follow(id: string, listener: Follower): { tell: Follower; stop: () => void } {
    const follower: Follower = (job) => listener(job);
    const followers = this.#followers.get(id) ?? new Set();
    followers.add(follower);
    this.#followers.set(id, followers);
    return { tell: (job) => this.#tellFollower(job, follower), stop: () => this.#unfollow(id, follower) };
  }

  /** Resolves with the job when it has ended; rejects with `invalid_operation` when it is forgotten before that. */
  wait(id: string): Promise<Job> {
    const waiter = this.#waiters.get(id) ?? deferred<Job>();
    this.#waiters.set(id, waiter);
    return waiter.promise;
  }

  /** @param jobOf the job of an id, undefined once it is forgotten */
  tell(view: QueueView, jobOf: (id: string) => Job | undefined): void {
    this.#listeners.forEach((listener) => listener(view));
    for (const id of view.changed) {
      const job = jobOf(id);
      if (!job) {
        this.#waiters
          .get(id)
          ?.reject(new StudioError('invalid_operation', `The job "${id}" was forgotten before its end was seen.`));
        this.#waiters.delete(id);
        this.#followers.delete(id);
        continue;
      }
      [...(this.#followers.get(id) ?? [])].forEach((follower) => this.#tellFollower(job, follower));
      if (isFinished(job)) {
        this.#waiters.get(id)?.resolve(job);
        this.#waiters.delete(id);
      }
    }
  }

  clear(): void {
    this.#listeners.clear();
    this.#followers.clear();
    this.#waiters.clear();
  }

  #tellFollower(job: Job, follower: Follower): void {
    if (this.#followers.get(job.id)?.has(follower)) {
      follower(job);
      if (isFinished(job)) {
        this.#unfollow(job.id, follower);
      }
    }
  }

  #unfollow(id: string, follower: Follower): void {
    const followers = this.#followers.get(id);
    followers?.delete(follower);
    if (followers?.size === 0) {
      this.#followers.delete(id);
    }
  }
}
