/**
 * This browser's jobs, the same in all its tabs and the service worker. A change is one transaction in IndexedDB; only then is it
 * announced, here and on a BroadcastChannel, and the others read what changed. Uses no DOM.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Delta, Job, Progress, ResumePoint, SoundPiece } from '../core/job.ts';
import { Draft } from './draft.ts';
import { IndexedJobStore, MemoryJobStore } from './job_store.ts';
import type { JobStore } from './job_store.ts';
import { JobWatchers } from './job_watchers.ts';
import type { QueueView } from './job_watchers.ts';
import type { QueueState } from './service.ts';
import { isFinished, reduce } from './state.ts';
import type { JobChange } from './state.ts';
import {
  EMPTY_QUEUE,
  byPosition,
  bySubmission,
  keyOf,
  parsePoint,
  parseQueue,
  parseStoredJob,
  progressSchema,
} from './stored_job.ts';
import type { QueueRecord, StoredJob } from './stored_job.ts';

const CHANNEL = 'darkroom:jobs';

/** How many ended jobs to remember. Recordings are unaffected. */
const ENDED_KEPT = 200;

/** Poll for changes whose broadcast was lost, in milliseconds. */
const BACKSTOP_MS = 5000;

const messageSchema = v.variant('type', [
  v.object({ type: v.literal('changed'), ids: v.array(v.string()), change: v.number() }),
  /** Progress is announced at once but only stored now and then. */
  v.object({ type: v.literal('progress'), id: v.string(), attempts: v.number(), progress: progressSchema }),
  /** Words are announced as they come but never stored; the result is recorded. */
  v.object({
    type: v.literal('delta'),
    id: v.string(),
    attempts: v.number(),
    step: v.string(),
    text: v.string(),
    thinking: v.boolean(),
  }),
]);
type Message = v.InferOutput<typeof messageSchema>;

export interface SharedJobsOptions {
  store?: JobStore;
  /** Null if nobody else is listening. */
  channel?: BroadcastChannel | null;
}

export class SharedJobs {
  readonly #channel: BroadcastChannel | null;
  readonly #watchers = new JobWatchers();
  readonly #mirror = new Map<string, StoredJob>();
  /** Forgotten jobs and their last revisions, so that stale reads cannot bring them back. */
  readonly #gone = new Map<string, number>();
  /** Changes announced by others but not read yet. */
  readonly #told: Extract<Message, { type: 'changed' }>[] = [];
  readonly #ready: Promise<void>;
  #store: JobStore;
  #queue: QueueRecord = EMPTY_QUEUE;
  #runs: QueueState['runs'] = 'nowhere';
  #order: StoredJob[] | null = null;
  /** All changes up to this one are known here, plus those in `#known`. */
  #knownUpTo = 0;
  readonly #known = new Set<number>();
  #isReading = false;
  #backstop: ReturnType<typeof setTimeout> | null = null;
  #note: string | null = null;
  #isShared = true;
  #isClosed = false;

  constructor({ store, channel }: SharedJobsOptions = {}) {
    this.#store = store ?? new IndexedJobStore();
    this.#channel = channel === undefined ? new BroadcastChannel(CHANNEL) : channel;
    // Messages during the first read are about what it may have missed.
    this.#channel?.addEventListener('message', ({ data }) => this.#onMessage(data));
    this.#ready = this.#open();
  }

  /** Resolves once all stored jobs have been read. */
  get ready(): Promise<void> {
    return this.#ready;
  }

  /**
   * A stored job, whichever tab made it.
   * @throws StudioError `invalid_operation` when there is no such job
   */
  async find(id: string): Promise<StoredJob> {
    await this.#ready;
    if (!this.#mirror.has(id)) {
      // Another tab may have just made it.
      await this.#read([id]);
    }
    const stored = this.#mirror.get(id);
    if (!stored) {
      throw new StudioError('invalid_operation', `There is no job "${id}"; it may have been forgotten.`);
    }
    return stored;
  }

  /** Resolves when this job has ended. */
  async wait(id: string): Promise<Job> {
    const { job } = await this.find(id);
    if (isFinished(job)) {
      return job;
    }
    const end = this.#watchers.wait(id);
    this.#watch();
    return end;
  }

  /** Reports the job now and after every change until it ends. Returns a function that stops. */
  follow(id: string, listener: (job: Job) => void): () => void {
    const { tell, stop } = this.#watchers.follow(id, listener);
    this.#watch();
    const known = this.#mirror.get(id);
    if (known) {
      tell(known.job);
    } else {
      // `get` reports a missing job.
      this.find(id).then(({ job }) => tell(job), stop);
    }
    return stop;
  }

  /** Ended and running jobs by submission, then waiting ones in the order they will run; as currently known. */
  get jobs(): Job[] {
    return this.#all().map(({ job }) => job);
  }

  /** As currently known here. */
  get state(): QueueState {
    const { isPaused, forever } = this.#queue;
    return { isPaused, forever, runs: this.#runs };
  }

  /** Whether other tabs see these jobs. */
  async isShared(): Promise<boolean> {
    await this.#ready;
    return this.#isShared;
  }

  /** A sentence for the person if jobs will not outlast this visit; null if they will. */
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

  /** Running jobs; none if nobody runs them. */
  running(): StoredJob[] {
    return this.#all().filter(({ job }) => job.state === 'running');
  }

  /** Called after every change in any tab. Returns a function that stops. */
  subscribe(listener: (view: QueueView) => void): () => void {
    const stop = this.#watchers.subscribe(listener);
    this.#watch();
    return stop;
  }

  /** Who runs jobs, as learned from waiting for the lock in this tab. */
  setRuns(runs: QueueState['runs']): void {
    if (this.#runs !== runs) {
      this.#runs = runs;
      this.#tell(new Set());
    }
  }

  /** Where an interrupted job can resume. */
  async point(id: string): Promise<ResumePoint | null> {
    const [point] = await this.#store.read([keyOf.point(id)]);
    return parsePoint(point);
  }

  /** Announces a running job's progress without storing it. */
  progress(id: string, attempts: number, progress: Progress): void {
    this.#onProgress(id, attempts, progress);
    this.#post({ type: 'progress', id, attempts, progress });
  }

  /** Announces a running job's latest words. */
  delta(id: string, attempts: number, { step, text, thinking }: Delta): void {
    this.#onDelta(id, attempts, { step, text, thinking });
    this.#post({ type: 'delta', id, attempts, step, text, thinking });
  }

  /** Streams a running job's words, starting with those so far. Returns a function that stops. */
  deltas(id: string, listener: (delta: Delta) => void): () => void {
    const stop = this.#watchers.words.listen(id, listener);
    this.#watch();
    return stop;
  }

  /** A running job's sound goes on; other tabs are not told, as it is large. */
  sound(id: string, attempts: number, { step, from, rate, channels }: SoundPiece): void {
    if (this.#isAt(id, attempts)) {
      this.#watchers.sounds.add(id, attempts, { step, from, rate, channels });
    }
  }

  /** Streams a sound that a job of this tab is making, starting with what there is. Returns a function that stops. */
  sounds(id: string, listener: (piece: SoundPiece) => void): () => void {
    const stop = this.#watchers.sounds.listen(id, listener);
    this.#watch();
    return stop;
  }

  /**
   * One transaction over the jobs `ids`: once it resolves, everything `decide` drafted is stored and announced.
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

  /** Continues with a change that could not be stored, and sets the note. After a reload, the job is back to its stored state and runs again. */
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

  /** Stops announcing and listening. */
  close(): void {
    this.#isClosed = true;
    if (this.#backstop !== null) {
      clearTimeout(this.#backstop);
    }
    this.#watchers.clear();
    this.#channel?.close();
  }

  async #open(): Promise<void> {
    try {
      // The first to open a database the browser threw away gets an error; the next gets a new database.
      await this.#readAll().catch(() => this.#readAll());
    } catch {
      // Private windows in some browsers, or a broken profile.
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

  /** Separate from the change that made them too many, so their end is seen before they disappear. */
  async #forgetOld(): Promise<void> {
    const ended = this.#all().filter(({ job }) => isFinished(job));
    if (ended.length > ENDED_KEPT) {
      const old = ended
        .sort((a, b) => (a.job.finishedAt ?? 0) - (b.job.finishedAt ?? 0))
        .slice(0, ended.length - ENDED_KEPT)
        .map(({ job }) => job.id);
      // The next ended job will try again.
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
    // First announce it to those who could not know otherwise.
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
    if (message.type === 'delta') {
      this.#onDelta(message.id, message.attempts, message);
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

  #onDelta(id: string, attempts: number, delta: Delta): void {
    if (this.#isAt(id, attempts)) {
      const { step, text, thinking } = delta;
      this.#watchers.words.add(id, attempts, { step, text, thinking });
    }
  }

  /** Whether the job is running, in this attempt. */
  #isAt(id: string, attempts: number): boolean {
    const job = this.#mirror.get(id)?.job;
    return job?.state === 'running' && job.attempts === attempts;
  }

  /** Marks change number `change` as known here. */
  #learn(change: number): void {
    this.#known.add(change);
    while (this.#known.delete(this.#knownUpTo + 1)) {
      this.#knownUpTo += 1;
    }
  }

  /** Reads announced changes, including those announced meanwhile. */
  async #readTold(): Promise<void> {
    this.#isReading = true;
    await this.#ready;
    while (this.#told.length > 0) {
      const told = this.#told.splice(0);
      try {
        await this.#read([...new Set(told.flatMap(({ ids }) => ids))]);
        told.forEach(({ change }) => this.#learn(change));
      } catch {
        // The periodic poll will try again.
      }
    }
    this.#isReading = false;
  }

  async #read(ids: readonly string[]): Promise<void> {
    const [queue, ...values] = await this.#store.read([keyOf.queue, ...ids.map(keyOf.job)]);
    const changed = new Set<string>();
    ids.forEach((id, i) => {
      const stored = parseStoredJob(values[i]);
      // A job never seen before is not there yet, or is from a later version.
      if ((stored || this.#mirror.has(id)) && this.#accept(id, stored)) {
        changed.add(id);
      }
    });
    if (this.#acceptQueue(parseQueue(queue)) || changed.size > 0) {
      this.#tell(changed);
    }
  }

  async #readAll(): Promise<void> {
    // First, so that changes in between are read again.
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

  /** A tab may store a change and die before announcing it. */
  #watch(): void {
    if (this.#isClosed) {
      return;
    }
    this.#backstop ??= setTimeout(() => {
      this.#backstop = null;
      if (!this.#watchers.isEmpty) {
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
    this.#watchers.tell({ jobs, changed, queue }, (id) => this.#mirror.get(id)?.job);
  }
}
