/** What one change of the stored jobs reads and writes, until it is committed. */
import type { ResumePoint } from '../core/job.ts';
import { isFinished } from './state.ts';
import { keyOf } from './stored_job.ts';
import type { QueueRecord, StoredJob } from './stored_job.ts';

/** One transaction while it is decided. */
export class Draft {
  readonly writes = new Map<string, unknown>();
  readonly #jobs: Map<string, StoredJob>;
  queue: QueueRecord;

  constructor(jobs: Map<string, StoredJob>, queue: QueueRecord) {
    this.#jobs = jobs;
    this.queue = queue;
  }

  get(id: string): StoredJob | undefined {
    return this.#jobs.get(id);
  }

  put(stored: StoredJob): void {
    const next = { ...stored, revision: stored.revision + 1 };
    this.#jobs.set(stored.job.id, next);
    this.writes.set(keyOf.job(stored.job.id), next);
    if (isFinished(stored.job)) {
      this.point(stored.job.id, null);
    }
  }

  remove(id: string): void {
    this.#jobs.delete(id);
    this.writes.set(keyOf.job(id), undefined);
    this.point(id, null);
  }

  point(id: string, point: ResumePoint | null): void {
    this.writes.set(keyOf.point(id), point ?? undefined);
  }

  steer(change: Partial<Pick<QueueRecord, 'isPaused' | 'forever'>>): void {
    this.queue = { ...this.queue, ...change };
    this.writes.set(keyOf.queue, this.queue);
  }
}
