/** Submitting, cancelling, reordering and repeating this browser's jobs. Uses no DOM. */
import {
  DEFAULT_CHECKPOINT,
  builtinOf,
  defaultCheckpoint,
  goneSentence,
  isBuiltin,
} from '../core/builtin_checkpoints.ts';
import type { Catalogue } from '../core/catalogue.ts';
import { StudioError } from '../core/errors.ts';
import type { Job } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import { operationKinds, requirementsOf } from '../core/plan.ts';
import { readRemoteModel } from '../core/remote.ts';
import type { Draft } from './draft.ts';
import { JOB_ID } from './service.ts';
import type { JobService, QueueState } from './service.ts';
import { SharedJobs } from './shared_jobs.ts';
import type { SharedJobsOptions } from './shared_jobs.ts';
import { isFinished, newJob, reduce } from './state.ts';
import type { JobChange } from './state.ts';
import { SCHEMA_VERSION, bandOf } from './stored_job.ts';
import type { Position, StoredJob } from './stored_job.ts';

/** The tab that holds this Web Lock runs the jobs. */
export const GPU_LOCK = 'darkroom:gpu';

const CHECKPOINT = /^(builtin:[a-z0-9_-]+$|(folder|hub|url|import):.)/;

export interface StoredJobsOptions extends SharedJobsOptions {
  /** For asking who holds {@link GPU_LOCK}; null without Web Locks. */
  locks?: LockManager | null;
  /** Milliseconds since 1970. */
  now?: () => number;
  newId?: () => string;
  /** What can be made; by default, every operation is taken to run one checkpoint. */
  catalogue?: Catalogue;
  /** Reads a recorded file. */
  entity?: (run: string, filename: string) => Promise<Blob>;
}

export class StoredJobs extends SharedJobs implements JobService {
  readonly #locks: LockManager | null;
  readonly #now: () => number;
  readonly #newId: () => string;
  readonly #entity: StoredJobsOptions['entity'];
  readonly #catalogue: Catalogue | undefined;
  readonly #lastPlaces = new Map<number, number>();

  constructor({ locks, now, newId, entity, catalogue, ...shared }: StoredJobsOptions = {}) {
    super(shared);
    this.#locks = locks === undefined ? webLocks() : locks;
    this.#now = now ?? Date.now;
    this.#newId = newId ?? (() => crypto.randomUUID());
    this.#entity = entity;
    this.#catalogue = catalogue;
  }

  async submit(asked: Operation, id?: string): Promise<Job> {
    const lacking = this.#lacking(asked);
    const operation = lacking ? { ...asked, checkpoint: defaultCheckpoint(lacking) } : asked;
    const named = Object.values(operation.checkpoints ?? {}).filter((ref) => readRemoteModel(ref) === null);
    for (const ref of [operation.checkpoint, ...named]) {
      if (ref !== null && !CHECKPOINT.test(ref)) {
        throw new StudioError(
          'invalid_operation',
          `There is no checkpoint "${ref}"; name one as "${DEFAULT_CHECKPOINT}", "hub:org/name@commit" or "folder:name", or leave "checkpoint" out.`,
        );
      }
      if (ref !== null && isBuiltin(ref) && !builtinOf(ref)) {
        throw new StudioError('invalid_operation', goneSentence(ref));
      }
    }
    if (id !== undefined && !JOB_ID.test(id)) {
      throw new StudioError('invalid_operation', 'The id of a job must be 1 to 64 letters, digits, "_" or "-".');
    }
    await this.ready;
    const fresh = this.#new(operation, null, id);
    let { job } = fresh;
    await this.commit(id === undefined ? [] : [id], (draft) => {
      const known = draft.get(fresh.job.id);
      if (known) {
        job = known.job;
      } else {
        draft.put(fresh);
      }
    });
    return job;
  }

  async list(): Promise<Job[]> {
    await this.ready;
    return this.jobs;
  }

  async get(id: string): Promise<Job> {
    return (await this.find(id)).job;
  }

  async cancel(id: string): Promise<Job> {
    await this.find(id);
    await this.commit([id], (draft) => this.#cancel(draft, id));
    return this.get(id);
  }

  async cancelAll(): Promise<void> {
    await this.refresh();
    const ids = this.jobs.filter((job) => !isFinished(job)).map(({ id }) => id);
    await this.commit(ids, (draft) => {
      ids.forEach((id) => this.#cancel(draft, id));
      draft.steer({ forever: null });
    });
  }

  async reorder(id: string, before: string | null): Promise<void> {
    await this.find(id);
    const line = this.waiting().filter(({ job }) => job.id !== id);
    const found = before === null ? -1 : line.findIndex(({ job }) => job.id === before);
    if (id === before || (before !== null && found === -1)) {
      return;
    }
    const at = found === -1 ? line.length : found;
    const position = between(line[at - 1]?.position, line[at]?.position);
    if (position) {
      await this.commit([id], (draft) => move(draft, id, position));
      return;
    }
    // No number is left between the two, so all get new ones.
    const ids = line.map(({ job }) => job.id);
    ids.splice(at, 0, id);
    await this.commit(ids, (draft) => {
      const { band } = (line[at] ?? line[at - 1]).position;
      const bands = ids.map((other) => (other === id ? band : (draft.get(other)?.position.band ?? band)));
      ids.forEach((other, place) => move(draft, other, { band: bands[place], place }));
    });
  }

  async repeat(id: string): Promise<Job> {
    const { job } = await this.find(id);
    const fresh = this.#new(job.operation, null);
    await this.commit([], (draft) => draft.put(fresh));
    return fresh.job;
  }

  async remove(id: string): Promise<void> {
    await this.find(id);
    await this.commit([id], (draft) => {
      const stored = draft.get(id);
      if (stored && isFinished(stored.job)) {
        draft.remove(id);
      }
    });
  }

  async forever(id: string | null): Promise<void> {
    if (id !== null) {
      await this.find(id);
    }
    await this.commit(id === null ? [] : [id], (draft) => {
      draft.steer({ forever: id });
      const stored = id === null ? undefined : draft.get(id);
      if (stored && isFinished(stored.job)) {
        draft.put(this.#another(stored, stored.job.id));
      }
    });
  }

  async pause(isPaused: boolean): Promise<void> {
    await this.commit([], (draft) => draft.steer({ isPaused }));
  }

  async queue(): Promise<QueueState> {
    await this.ready;
    const held = (await this.#locks?.query())?.held ?? [];
    if (this.state.runs !== 'here') {
      this.setRuns(held.some(({ name }) => name === GPU_LOCK) ? 'elsewhere' : 'nowhere');
    }
    return this.state;
  }

  entity(run: string, filename: string): Promise<Blob> {
    return this.#entity
      ? this.#entity(run, filename)
      : Promise.reject(new StudioError('storage_unavailable', 'Recordings cannot be read here; ask an open tab.'));
  }

  /** The job after `change`, followed by the next of its series if it ended. */
  settle(draft: Draft, stored: StoredJob, change: JobChange): void {
    const job = reduce(stored.job, change);
    const runs = job.state === 'running';
    draft.put({ ...stored, job, runner: runs ? stored.runner : null, isCancelled: runs && stored.isCancelled });
    if (!isFinished(job)) {
      return;
    }
    const { forever } = draft.queue;
    if (forever !== null && (forever === job.id || forever === stored.series)) {
      if (job.state === 'completed') {
        draft.put(this.#another(stored, forever));
      } else {
        draft.steer({ forever: null });
      }
    }
  }

  /**
   * The classes of a checkpoint that the operation needs but does not name; null if it needs or lacks none.
   * @throws StudioError `invalid_operation` for an unknown kind of operation
   */
  #lacking(operation: Operation): readonly string[] | null {
    const catalogue = this.#catalogue;
    if (!catalogue) {
      return operation.checkpoint === null ? [] : null;
    }
    const kinds = operationKinds(catalogue);
    if (!kinds.includes(operation.operation)) {
      throw new StudioError(
        'invalid_operation',
        `operation must be one of ${kinds.join(', ')}; it is "${operation.operation}".`,
      );
    }
    try {
      return requirementsOf(operation, catalogue).lacking;
    } catch {
      // Planning the job reports what is wrong.
      return operation.checkpoint === null ? [] : null;
    }
  }

  #new(operation: Operation, series: string | null, id = this.#newId()): StoredJob {
    const now = this.#now();
    const band = bandOf(operation);
    const waiting = this.waiting().filter(({ position }) => position.band === band);
    // Time orders jobs across tabs; within a tab the count continues even if the clock does not.
    const place = Math.max(now, (waiting.at(-1)?.position.place ?? 0) + 1, (this.#lastPlaces.get(band) ?? 0) + 1);
    this.#lastPlaces.set(band, place);
    return {
      schema_version: SCHEMA_VERSION,
      // Greater than any revision of an earlier job with this id.
      revision: now,
      job: newJob(id, operation, now),
      position: { band, place },
      isCancelled: false,
      runner: null,
      series,
    };
  }

  /** The next of a series, with another seed. */
  #another(stored: StoredJob, series: string): StoredJob {
    const { operation } = stored.job;
    const seed = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    return this.#new({ ...operation, parameters: { ...operation.parameters, seed } }, series);
  }

  #cancel(draft: Draft, id: string): void {
    const stored = draft.get(id);
    if (stored?.job.state === 'pending') {
      this.settle(draft, stored, { type: 'cancelled', at: this.#now() });
    } else if (stored?.job.state === 'running' && !stored.isCancelled) {
      draft.put({ ...stored, isCancelled: true });
    }
  }
}

/** Between `previous` and `next`, in the band of `next`; null if no number is left there. */
function between(previous: Position | undefined, next: Position | undefined): Position | null {
  if (!next) {
    return previous ? { band: previous.band, place: previous.place + 1 } : { band: 1, place: 0 };
  }
  if (previous?.band !== next.band) {
    return { band: next.band, place: next.place - 1 };
  }
  const place = (previous.place + next.place) / 2;
  return place > previous.place && place < next.place ? { band: next.band, place } : null;
}

function move(draft: Draft, id: string, position: Position): void {
  const stored = draft.get(id);
  if (stored?.job.state === 'pending') {
    draft.put({ ...stored, position });
  }
}

/** Absent outside secure contexts and in Node. */
function webLocks(): LockManager | null {
  return (globalThis.navigator as { locks?: LockManager } | undefined)?.locks ?? null;
}
