/**
 * The jobs of this browser as one tab knows them, the same in all its tabs and the service worker. A change is one transaction in
 * IndexedDB; only then is it told, here and on a BroadcastChannel, and the others read what changed. Nothing of the DOM is used.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Delta, Job, Progress, ResumePoint } from '../core/job.ts';
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

/** How many ended jobs are remembered. Their recordings are not touched. */
const ENDED_KEPT = 200;

/** How often is looked whether somebody changed something and could not say so any more, in milliseconds. */
const BACKSTOP_MS = 5000;

const messageSchema = v.variant('type', [
  v.object({ type: v.literal('changed'), ids: v.array(v.string()), change: v.number() }),
  /** Progress is told and not waited for: it is written down now and then only. */
  v.object({ type: v.literal('progress'), id: v.string(), attempts: v.number(), progress: progressSchema }),
  /** Words are told as they come and never written down: what they become is recorded. */
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
  /** Null: nobody else is told. */
  channel?: BroadcastChannel | null;
}

export class SharedJobs {
  readonly #channel: BroadcastChannel | null;
  readonly #watchers = new JobWatchers();
  readonly #mirror = new Map<string, StoredJob>();
  /** Forgotten jobs and their last revisions; what was read before must not bring them back. */
  readonly #gone = new Map<string, number>();
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

  constructor({ store, channel }: SharedJobsOptions = {}) {
    this.#store = store ?? new IndexedJobStore();
    this.#channel = channel === undefined ? new BroadcastChannel(CHANNEL) : channel;
    // Messages that come while the first reading is under way are about what it may have missed.
    this.#channel?.addEventListener('message', ({ data }) => this.#onMessage(data));
    this.#ready = this.#open();
  }

  /** Resolves when what was stored before has been read. */
  get ready(): Promise<void> {
    return this.#ready;
  }

  /**
   * One that is stored, wherever it was made.
   * @throws StudioError `invalid_operation` when there is no such job
   */
  async find(id: string): Promise<StoredJob> {
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

  /** Tells the job now and after every change until it has ended. Returns the way to stop. */
  follow(id: string, listener: (job: Job) => void): () => void {
    const { tell, stop } = this.#watchers.follow(id, listener);
    this.#watch();
    const known = this.#mirror.get(id);
    if (known) {
      tell(known.job);
    } else {
      // Who asks for what is not there is told so by `get`.
      this.find(id).then(({ job }) => tell(job), stop);
    }
    return stop;
  }

  /** Ended and running ones in order of submission, then the waiting ones in the order in which they will run; of what is known by now. */
  get jobs(): Job[] {
    return this.#all().map(({ job }) => job);
  }

  /** Of what is known here by now. */
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
    const stop = this.#watchers.subscribe(listener);
    this.#watch();
    return stop;
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

  /** Tells everybody who reads along what a running job has just said. */
  delta(id: string, attempts: number, { step, text, thinking }: Delta): void {
    this.#onDelta(id, attempts, { step, text, thinking });
    this.#post({ type: 'delta', id, attempts, step, text, thinking });
  }

  /** Tells the words of a running job as they come into being, those so far at once. Returns the way to stop. */
  deltas(id: string, listener: (delta: Delta) => void): () => void {
    const stop = this.#watchers.read(id, listener);
    this.#watch();
    return stop;
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
    this.#watchers.clear();
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
    const job = this.#mirror.get(id)?.job;
    if (job?.state === 'running' && job.attempts === attempts) {
      this.#watchers.hear(id, attempts, delta);
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
