/**
 * The jobs of this browser, in IndexedDB and shared by all its tabs and the service worker. A change is one transaction that goes
 * through the reducer; only then is it told, here and on a BroadcastChannel, and the others read what changed. Nothing of the DOM is used.
 */
import * as v from 'valibot';
import { DEFAULT_CHECKPOINT, builtinOf, goneSentence, isBuiltin } from '../core/builtin_checkpoints.ts';
import { StudioError } from '../core/errors.ts';
import type { Job, Progress, ResumePoint } from '../core/job.ts';
import { parseOperation } from '../core/operation.ts';
import type { Operation } from '../core/operation.ts';
import { deferred } from './deferred.ts';
import type { Deferred } from './deferred.ts';
import { Draft } from './draft.ts';
import { IndexedJobStore, MemoryJobStore } from './job_store.ts';
import type { JobStore } from './job_store.ts';
import { JOB_ID } from './service.ts';
import type { JobService, QueueState } from './service.ts';
import { isFinished, newJob, reduce } from './state.ts';
import type { JobChange } from './state.ts';
import {
  EMPTY_QUEUE,
  SCHEMA_VERSION,
  bandOf,
  byPosition,
  bySubmission,
  keyOf,
  parsePoint,
  parseQueue,
  parseStoredJob,
  progressSchema,
} from './stored_job.ts';
import type { Position, QueueRecord, StoredJob } from './stored_job.ts';

/** The tab that holds this Web Lock runs the jobs. */
export const GPU_LOCK = 'darkroom:gpu';

const CHANNEL = 'darkroom:jobs';

/** How many ended jobs are remembered. Their recordings are not touched. */
const ENDED_KEPT = 200;

/** How often is looked whether somebody changed something and could not say so any more, in milliseconds. */
const BACKSTOP_MS = 5000;

const CHECKPOINT = /^(builtin:[a-z0-9_-]+$|(folder|hub|url|import):.)/;

export interface StoredJobsOptions {
  store?: JobStore;
  /** Null: nobody else is told. */
  channel?: BroadcastChannel | null;
  /** Who holds {@link GPU_LOCK} is asked here; null where there are no Web Locks. */
  locks?: LockManager | null;
  /** Milliseconds since 1970. */
  now?: () => number;
  newId?: () => string;
  /** Reads a recorded file. */
  entity?: (run: string, filename: string) => Promise<Blob>;
}

/** What watchers are told. */
export interface QueueView {
  jobs: Job[];
  /** Ids of the jobs that this is about; forgotten ones, too. */
  changed: ReadonlySet<string>;
  queue: QueueState;
}

const messageSchema = v.variant('type', [
  v.object({ type: v.literal('changed'), ids: v.array(v.string()), change: v.number() }),
  /** Progress is told and not waited for: it is written down now and then only. */
  v.object({ type: v.literal('progress'), id: v.string(), attempts: v.number(), progress: progressSchema }),
]);
type Message = v.InferOutput<typeof messageSchema>;

export class StoredJobs implements JobService {
  readonly #channel: BroadcastChannel | null;
  readonly #locks: LockManager | null;
  readonly #now: () => number;
  readonly #newId: () => string;
  readonly #entity: StoredJobsOptions['entity'];
  readonly #mirror = new Map<string, StoredJob>();
  /** Forgotten jobs and their last revisions; what was read before must not bring them back. */
  readonly #gone = new Map<string, number>();
  readonly #listeners = new Set<(view: QueueView) => void>();
  readonly #followers = new Map<string, Set<(job: Job) => void>>();
  readonly #waiters = new Map<string, Deferred<Job>>();
  readonly #lastPlaces = new Map<number, number>();
  /** What others said they changed and was not read yet. */
  readonly #told: Extract<Message, { type: 'changed' }>[] = [];
  readonly #ready: Promise<void>;
  #store: JobStore;
  #queue: QueueRecord = EMPTY_QUEUE;
  #runs: QueueState['runs'] = 'nowhere';
  #order: StoredJob[] | null = null;
  /** Every change up to this one is known here, and those of `#known` beyond it. */
  #knownUpTo = 0;
  readonly #known = new Set<number>();
  #isReading = false;
  #backstop: ReturnType<typeof setTimeout> | null = null;
  #note: string | null = null;
  #isShared = true;
  #isClosed = false;

  constructor(options: StoredJobsOptions = {}) {
    this.#store = options.store ?? new IndexedJobStore();
    this.#channel = options.channel === undefined ? new BroadcastChannel(CHANNEL) : options.channel;
    this.#locks = options.locks === undefined ? webLocks() : options.locks;
    this.#now = options.now ?? Date.now;
    this.#newId = options.newId ?? (() => crypto.randomUUID());
    this.#entity = options.entity;
    // Messages that come while the first reading is under way are about what it may have missed.
    this.#channel?.addEventListener('message', ({ data }) => this.#onMessage(data));
    this.#ready = this.#open();
  }

  async submit(input: unknown, id?: string): Promise<Job> {
    const operation = parseOperation(input);
    const checkpoint = operation.checkpoint ?? DEFAULT_CHECKPOINT;
    if (!CHECKPOINT.test(checkpoint)) {
      throw new StudioError(
        'invalid_operation',
        `There is no checkpoint "${checkpoint}"; name one as "${DEFAULT_CHECKPOINT}", "hub:org/name@commit" or "folder:name", or leave "checkpoint" out.`,
      );
    }
    if (isBuiltin(checkpoint) && !builtinOf(checkpoint)) {
      throw new StudioError('invalid_operation', goneSentence(checkpoint));
    }
    if (id !== undefined && !JOB_ID.test(id)) {
      throw new StudioError('invalid_operation', 'The id of a job must be 1 to 64 letters, digits, "_" or "-".');
    }
    await this.#ready;
    const fresh = this.#new({ ...operation, checkpoint }, null, id);
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
    await this.#ready;
    return this.jobs;
  }

  async get(id: string): Promise<Job> {
    return (await this.#find(id)).job;
  }

  async wait(id: string): Promise<Job> {
    const { job } = await this.#find(id);
    if (isFinished(job)) {
      return job;
    }
    const waiter = this.#waiters.get(id) ?? deferred<Job>();
    this.#waiters.set(id, waiter);
    this.#watch();
    return waiter.promise;
  }

  follow(id: string, listener: (job: Job) => void): () => void {
    const followers = this.#followers.get(id) ?? new Set();
    // The same listener may follow twice.
    const tell = (job: Job) => listener(job);
    followers.add(tell);
    this.#followers.set(id, followers);
    this.#watch();
    const known = this.#mirror.get(id);
    if (known) {
      this.#tellFollowers(known.job, [tell]);
    } else {
      // Who asks for what is not there is told so by `get`.
      this.#find(id).then(
        ({ job }) => this.#tellFollowers(job, [tell]),
        () => this.#unfollow(id, tell),
      );
    }
    return () => this.#unfollow(id, tell);
  }

  async cancel(id: string): Promise<Job> {
    await this.#find(id);
    await this.commit([id], (draft) => this.#cancel(draft, id));
    return this.get(id);
  }

  async cancelAll(): Promise<void> {
    await this.refresh();
    const ids = this.#all()
      .filter(({ job }) => !isFinished(job))
      .map(({ job }) => job.id);
    await this.commit(ids, (draft) => {
      ids.forEach((id) => this.#cancel(draft, id));
      draft.steer({ forever: null });
    });
  }

  async reorder(id: string, before: string | null): Promise<void> {
    await this.#find(id);
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
    // No number is left between the two: all get new ones.
    const ids = line.map(({ job }) => job.id);
    ids.splice(at, 0, id);
    await this.commit(ids, (draft) => {
      const { band } = (line[at] ?? line[at - 1]).position;
      const bands = ids.map((other) => (other === id ? band : (draft.get(other)?.position.band ?? band)));
      ids.forEach((other, place) => move(draft, other, { band: bands[place], place }));
    });
  }

  async repeat(id: string): Promise<Job> {
    const { job } = await this.#find(id);
    const fresh = this.#new(job.operation, null);
    await this.commit([], (draft) => draft.put(fresh));
    return fresh.job;
  }

  async remove(id: string): Promise<void> {
    await this.#find(id);
    await this.commit([id], (draft) => {
      const stored = draft.get(id);
      if (stored && isFinished(stored.job)) {
        draft.remove(id);
      }
    });
  }

  async forever(id: string | null): Promise<void> {
    if (id !== null) {
      await this.#find(id);
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
    await this.#ready;
    const held = (await this.#locks?.query())?.held ?? [];
    if (this.#runs !== 'here') {
      this.#runs = held.some(({ name }) => name === GPU_LOCK) ? 'elsewhere' : 'nowhere';
    }
    return this.state;
  }

  entity(run: string, filename: string): Promise<Blob> {
    return this.#entity
      ? this.#entity(run, filename)
      : Promise.reject(new StudioError('storage_unavailable', 'Recordings cannot be read here; ask an open tab.'));
  }

  /** As {@link list}, of what is known here by now. */
  get jobs(): Job[] {
    return this.#all().map(({ job }) => job);
  }

  /** As {@link queue}, of what is known here by now. */
  get state(): QueueState {
    const { isPaused, forever } = this.#queue;
    return { isPaused, forever, runs: this.#runs };
  }

  /** Whether other tabs see these jobs. */
  async isShared(): Promise<boolean> {
    await this.#ready;
    return this.#isShared;
  }

  /** One sentence for the person when jobs do not outlast this visit; null when they do. */
  get note(): string | null {
    return this.#note;
  }

  /** Waiting jobs in the order in which they run. */
  waiting(): StoredJob[] {
    return this.#all().filter(({ job }) => job.state === 'pending');
  }

  /** What is known here of one job. */
  stored(id: string): StoredJob | undefined {
    return this.#mirror.get(id);
  }

  /** Running jobs; there are none where nobody runs them. */
  running(): StoredJob[] {
    return this.#all().filter(({ job }) => job.state === 'running');
  }

  /** Called after every change, in whichever tab it was made. Returns the way to stop. */
  subscribe(listener: (view: QueueView) => void): () => void {
    this.#listeners.add(listener);
    this.#watch();
    return () => this.#listeners.delete(listener);
  }

  /** Who runs jobs, as the one who waits for the lock in this tab learns it. */
  setRuns(runs: QueueState['runs']): void {
    if (this.#runs !== runs) {
      this.#runs = runs;
      this.#tell(new Set());
    }
  }

  /** The point from which a job that ran before can go on. */
  async point(id: string): Promise<ResumePoint | null> {
    const [point] = await this.#store.read([keyOf.point(id)]);
    return parsePoint(point);
  }

  /** Tells everybody how far a running job is, without writing it down. */
  progress(id: string, attempts: number, progress: Progress): void {
    this.#onProgress(id, attempts, progress);
    this.#post({ type: 'progress', id, attempts, progress });
  }

  /** The job after `change`, with what follows from its end: another one of its series. */
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
   * One transaction over the jobs `ids`: when it resolves, all of what `decide` drafted is stored and told.
   * @throws StudioError `storage_full`, `storage_unavailable`, or what `decide` throws; then nothing is stored
   */
  async commit(ids: readonly string[], decide: (draft: Draft) => void): Promise<void> {
    await this.#ready;
    let draft: Draft | null = null;
    await this.#store.change([keyOf.queue, ...ids.map(keyOf.job)], ([queue, ...values]) => {
      const jobs = values.map(parseStoredJob).filter((stored) => stored !== null);
      draft = new Draft(new Map(jobs.map((stored) => [stored.job.id, stored])), parseQueue(queue));
      decide(draft);
      if (draft.writes.size > 0) {
        draft.writes.set(keyOf.queue, { ...draft.queue, changes: draft.queue.changes + 1 });
      }
      return draft.writes;
    });
    this.#take(draft);
    await this.#forgetOld();
  }

  /** Goes on with what could not be stored; the note says so. After a reload the job is what was stored last, and runs again. */
  assume(id: string, change: JobChange, error: StudioError): void {
    const stored = this.#mirror.get(id);
    if (stored?.job.state === 'running') {
      this.#note = error.message;
      this.#accept(id, { ...stored, revision: stored.revision + 1, job: reduce(stored.job, change) });
      this.#tell(new Set([id]));
    }
  }

  /** Reads everything that is stored. */
  async refresh(): Promise<void> {
    await this.#ready;
    await this.#readAll();
  }

  /** Tells and hears nobody any more. */
  close(): void {
    this.#isClosed = true;
    if (this.#backstop !== null) {
      clearTimeout(this.#backstop);
    }
    this.#listeners.clear();
    this.#followers.clear();
    this.#waiters.clear();
    this.#channel?.close();
  }

  async #open(): Promise<void> {
    try {
      await this.#readAll();
    } catch {
      // Private windows of some browsers, or a profile that is broken.
      this.#store = new MemoryJobStore();
      this.#isShared = false;
      this.#note = 'This browser keeps nothing, so waiting jobs end with this visit.';
    }
  }

  #all(): StoredJob[] {
    if (this.#order === null) {
      const all = [...this.#mirror.values()];
      const waiting = all.filter(({ job }) => job.state === 'pending').sort(byPosition);
      this.#order = [...all.filter(({ job }) => job.state !== 'pending').sort(bySubmission), ...waiting];
    }
    return this.#order;
  }

  async #find(id: string): Promise<StoredJob> {
    await this.#ready;
    if (!this.#mirror.has(id)) {
      // Another tab may have made it a moment ago.
      await this.#read([id]);
    }
    const stored = this.#mirror.get(id);
    if (!stored) {
      throw new StudioError('invalid_operation', `There is no job "${id}"; it may have been forgotten.`);
    }
    return stored;
  }

  #new(operation: Operation, series: string | null, id = this.#newId()): StoredJob {
    const now = this.#now();
    const band = bandOf(operation);
    const waiting = this.waiting().filter(({ position }) => position.band === band);
    // Time puts those of two tabs in order; within one tab the count goes on where the clock has not.
    const place = Math.max(now, (waiting.at(-1)?.position.place ?? 0) + 1, (this.#lastPlaces.get(band) ?? 0) + 1);
    this.#lastPlaces.set(band, place);
    return {
      schema_version: SCHEMA_VERSION,
      // More than any change of an earlier job of this name.
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

  /** Apart from the change that made them too many, so that their end is seen before they are gone. */
  async #forgetOld(): Promise<void> {
    const ended = this.#all().filter(({ job }) => isFinished(job));
    if (ended.length > ENDED_KEPT) {
      const old = ended
        .sort((a, b) => (a.job.finishedAt ?? 0) - (b.job.finishedAt ?? 0))
        .slice(0, ended.length - ENDED_KEPT)
        .map(({ job }) => job.id);
      // Whoever ends the next one tries again.
      await this.commit([], (draft) => old.forEach((id) => draft.remove(id))).catch(() => undefined);
    }
  }

  #take(draft: Draft | null): void {
    if (!draft || draft.writes.size === 0) {
      return;
    }
    const changed = new Set<string>();
    let queue = this.#queue;
    for (const [key, value] of draft.writes) {
      if (key === keyOf.queue) {
        queue = value as QueueRecord;
      } else if (key.startsWith(keyOf.job(''))) {
        const id = key.slice(keyOf.job('').length);
        this.#accept(id, (value as StoredJob | undefined) ?? null);
        changed.add(id);
      }
    }
    this.#acceptQueue(queue);
    this.#learn(queue.changes);
    // Told first to those who could not know otherwise.
    this.#post({ type: 'changed', ids: [...changed], change: queue.changes });
    this.#tell(changed);
  }

  /** @returns whether it is news */
  #accept(id: string, stored: StoredJob | null): boolean {
    const known = this.#mirror.get(id);
    if (stored === null) {
      this.#gone.set(id, known?.revision ?? 0);
      this.#order = null;
      return this.#mirror.delete(id);
    }
    if ((known?.revision ?? this.#gone.get(id) ?? -1) >= stored.revision) {
      return false;
    }
    const { progress } = known?.job ?? {};
    const isSame = known?.job.state === 'running' && stored.job.state === 'running';
    const keeps = isSame && progress && known.job.attempts === stored.job.attempts;
    this.#mirror.set(id, keeps ? { ...stored, job: { ...stored.job, progress } } : stored);
    this.#order = null;
    return true;
  }

  #acceptQueue(queue: QueueRecord): boolean {
    if (queue.changes < this.#queue.changes) {
      return false;
    }
    const { isPaused, forever } = this.#queue;
    this.#queue = queue;
    return queue.isPaused !== isPaused || queue.forever !== forever;
  }

  #onMessage(data: unknown): void {
    const result = v.safeParse(messageSchema, data);
    if (!result.success) {
      return;
    }
    const message = result.output;
    if (message.type === 'progress') {
      this.#onProgress(message.id, message.attempts, message.progress);
      return;
    }
    this.#told.push(message);
    if (!this.#isReading) {
      void this.#readTold();
    }
  }

  #onProgress(id: string, attempts: number, progress: Progress): void {
    const stored = this.#mirror.get(id);
    if (stored?.job.state === 'running' && stored.job.attempts === attempts) {
      this.#mirror.set(id, { ...stored, job: { ...stored.job, progress } });
      this.#order = null;
      this.#tell(new Set([id]));
    }
  }

  /** Change number `change` is known here. */
  #learn(change: number): void {
    this.#known.add(change);
    while (this.#known.delete(this.#knownUpTo + 1)) {
      this.#knownUpTo += 1;
    }
  }

  /** Reads what others said they changed, however much they say meanwhile. */
  async #readTold(): Promise<void> {
    this.#isReading = true;
    await this.#ready;
    while (this.#told.length > 0) {
      const told = this.#told.splice(0);
      try {
        await this.#read([...new Set(told.flatMap(({ ids }) => ids))]);
        told.forEach(({ change }) => this.#learn(change));
      } catch {
        // The backstop looks again.
      }
    }
    this.#isReading = false;
  }

  async #read(ids: readonly string[]): Promise<void> {
    const [queue, ...values] = await this.#store.read([keyOf.queue, ...ids.map(keyOf.job)]);
    const changed = new Set<string>();
    ids.forEach((id, i) => {
      const stored = parseStoredJob(values[i]);
      // One that was never known is not there yet, or is not for this version.
      if ((stored || this.#mirror.has(id)) && this.#accept(id, stored)) {
        changed.add(id);
      }
    });
    if (this.#acceptQueue(parseQueue(queue)) || changed.size > 0) {
      this.#tell(changed);
    }
  }

  async #readAll(): Promise<void> {
    // First, so that what changes in between is looked at again.
    const [queue] = await this.#store.read([keyOf.queue]);
    const values = await this.#store.readAll(keyOf.job(''));
    const changed = new Set<string>();
    for (const value of values.values()) {
      const stored = parseStoredJob(value);
      if (stored && this.#accept(stored.job.id, stored)) {
        changed.add(stored.job.id);
      }
    }
    for (const id of [...this.#mirror.keys()]) {
      if (!values.has(keyOf.job(id)) && (await this.#store.read([keyOf.job(id)]))[0] === undefined) {
        this.#accept(id, null);
        changed.add(id);
      }
    }
    const record = parseQueue(queue);
    this.#knownUpTo = Math.max(this.#knownUpTo, record.changes);
    if (this.#acceptQueue(record) || changed.size > 0) {
      this.#tell(changed);
    }
  }

  /** Somebody may store a change and end before it is told. */
  #watch(): void {
    if (this.#isClosed) {
      return;
    }
    this.#backstop ??= setTimeout(() => {
      this.#backstop = null;
      if (this.#listeners.size + this.#followers.size + this.#waiters.size > 0) {
        void this.#lookForMissed().finally(() => this.#watch());
      }
    }, BACKSTOP_MS);
  }

  async #lookForMissed(): Promise<void> {
    try {
      await this.#ready;
      const [queue] = await this.#store.read([keyOf.queue]);
      if (parseQueue(queue).changes > this.#knownUpTo) {
        await this.#readAll();
      }
    } catch {
      // Next time.
    }
  }

  #post(message: Message): void {
    if (!this.#isClosed) {
      this.#channel?.postMessage(message);
    }
  }

  #tell(changed: ReadonlySet<string>): void {
    const { jobs, state: queue } = this;
    this.#listeners.forEach((listener) => listener({ jobs, changed, queue }));
    for (const id of changed) {
      const job = this.#mirror.get(id)?.job;
      if (!job) {
        this.#waiters
          .get(id)
          ?.reject(new StudioError('invalid_operation', `The job "${id}" was forgotten before its end was seen.`));
        this.#waiters.delete(id);
        this.#followers.delete(id);
        continue;
      }
      this.#tellFollowers(job, this.#followers.get(id) ?? []);
      if (isFinished(job)) {
        this.#waiters.get(id)?.resolve(job);
        this.#waiters.delete(id);
      }
    }
  }

  #tellFollowers(job: Job, followers: Iterable<(job: Job) => void>): void {
    for (const tell of [...followers]) {
      if (this.#followers.get(job.id)?.has(tell)) {
        tell(job);
        if (isFinished(job)) {
          this.#unfollow(job.id, tell);
        }
      }
    }
  }

  #unfollow(id: string, tell: (job: Job) => void): void {
    const followers = this.#followers.get(id);
    followers?.delete(tell);
    if (followers?.size === 0) {
      this.#followers.delete(id);
    }
  }
}

/** Behind `previous` and before `next`, in the band of the one that it comes before; null when no number is left there. */
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
