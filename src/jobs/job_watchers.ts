/** Listeners to jobs in this tab: to all of them, to one until it ends, or only to one's end. */
import { StudioError } from '../core/errors.ts';
import type { Delta, Job, SoundPiece } from '../core/job.ts';
import { deferred } from './deferred.ts';
import type { Deferred } from './deferred.ts';
import { LiveStreams } from './live_streams.ts';
import type { QueueState } from './service.ts';
import { isFinished } from './state.ts';

/** What watchers are told. */
export interface QueueView {
  jobs: Job[];
  /** Ids of the changed jobs, including forgotten ones. */
  changed: ReadonlySet<string>;
  queue: QueueState;
}

type Follower = (job: Job) => void;

export class JobWatchers {
  readonly #listeners = new Set<(view: QueueView) => void>();
  readonly #followers = new Map<string, Set<Follower>>();
  readonly #waiters = new Map<string, Deferred<Job>>();
  readonly words = new LiveStreams<Delta>(joinDelta);
  readonly sounds = new LiveStreams<SoundPiece>((pieces, piece) => void pieces.push(piece));

  get isEmpty(): boolean {
    const isHeard = this.words.isHeard || this.sounds.isHeard;
    return !isHeard && this.#listeners.size + this.#followers.size + this.#waiters.size === 0;
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

  /** Resolves with the job once it has ended; rejects with `invalid_operation` if it is forgotten before. */
  wait(id: string): Promise<Job> {
    const waiter = this.#waiters.get(id) ?? deferred<Job>();
    this.#waiters.set(id, waiter);
    return waiter.promise;
  }

  /** @param jobOf the job of an id, undefined once it is forgotten */
  tell(view: QueueView, jobOf: (id: string) => Job | undefined): void {
    this.#endWaiting(view.changed, jobOf);
    this.#listeners.forEach((listener) => listener(view));
    for (const id of view.changed) {
      const job = jobOf(id);
      if (!job) {
        this.#waiters
          .get(id)
          ?.reject(new StudioError('invalid_operation', `The job "${id}" was forgotten before its end was seen.`));
        this.#waiters.delete(id);
        this.#followers.delete(id);
        this.words.forget(id);
        this.sounds.forget(id);
        continue;
      }
      [...(this.#followers.get(id) ?? [])].forEach((follower) => this.#tellFollower(job, follower));
      if (job.state !== 'running') {
        this.words.end(id);
        this.sounds.end(id);
      }
    }
  }

  /** First: what the page draws of an end takes longer. */
  #endWaiting(changed: ReadonlySet<string>, jobOf: (id: string) => Job | undefined): void {
    for (const id of changed) {
      const job = jobOf(id);
      if (job && isFinished(job)) {
        this.#waiters.get(id)?.resolve(job);
        this.#waiters.delete(id);
      }
    }
  }

  clear(): void {
    this.#listeners.clear();
    this.#followers.clear();
    this.#waiters.clear();
    this.words.clear();
    this.sounds.clear();
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

/** Appends words, merging adjacent ones of the same kind. */
export function joinDelta(words: Delta[], { step, text, thinking }: Delta): void {
  const last = words.at(-1);
  if (last?.step === step && last.thinking === thinking) {
    last.text += text;
  } else {
    words.push({ step, text, thinking });
  }
}
