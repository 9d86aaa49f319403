/**
 * The BroadcastChannel door, for pages of our own origin without HTTP: they post requests on `tasks:pending` and listen on
 * `task_updates:<id>`. Only the tab holding the Web Lock `darkroom:channel` serves, so no message is obeyed twice; when it closes, another
 * takes over. Nobody listens in between, so a sender without an answer sends again: it chooses the id, and a known id is not submitted
 * twice.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { ErrorCode, Retry } from '../core/errors.ts';
import type { Delta, Job } from '../core/job.ts';
import { parse, parseOperation } from '../core/operation.ts';
import { jobReport } from './job_report.ts';
import { ENGINE_QUESTIONS, nobody } from './engine_questions.ts';
import type { AskEngine, EngineQuestion } from './engine_questions.ts';
import { JOB_ID } from './service.ts';
import type { JobService, QueueState } from './service.ts';
import { isFinished } from './state.ts';

export const TASKS_CHANNEL = 'tasks:pending';
export const UPDATES_CHANNEL = 'task_updates:';
const LOCK = 'darkroom:channel';

const id = v.pipe(v.string(), v.regex(JOB_ID, 'id must be 1 to 64 letters, digits, "_" or "-".'));
const known = v.string('job_id must be the id of a job.');

/** Messages on `tasks:pending`; answers go to `task_updates:<id>`. In submit, follow, cancel and forget, `id` is the job's. */
const messageSchema = v.variant(
  'type',
  [
    v.strictObject({ type: v.literal('submit'), id, operation: v.unknown() }),
    v.strictObject({ type: v.literal('follow'), id }),
    v.strictObject({ type: v.literal('cancel'), id }),
    v.strictObject({ type: v.literal('forget'), id }),
    v.strictObject({ type: v.literal('repeat'), id, job_id: known }),
    v.strictObject({ type: v.literal('reorder'), id, before: v.nullable(known) }),
    v.strictObject({ type: v.literal('list'), id }),
    v.strictObject({ type: v.literal('cancel_all'), id }),
    v.strictObject({
      type: v.literal('queue'),
      id,
      isPaused: v.optional(v.boolean('isPaused must be true or false.')),
      forever: v.optional(v.nullable(known)),
    }),
    v.strictObject({ type: v.literal('entity'), id, run: v.string(), filename: v.string() }),
  ],
  `type must be one of submit, follow, cancel, forget, repeat, reorder, list, cancel_all, queue, entity, ${ENGINE_QUESTIONS.join(', ')}.`,
);

export type TaskMessage = v.InferOutput<typeof messageSchema>;

/** Messages on `task_updates:<id>`. */
export type TaskUpdate =
  /** The current job: at once, and after every change. */
  | { type: 'job'; job: Job }
  /** The job as it ended; nothing follows. */
  | { type: 'end'; job: Job }
  /** A step's words as they are written. */
  | ({ type: 'delta' } & Delta)
  | { type: 'jobs'; jobs: Job[] }
  | { type: 'queue'; queue: QueueState }
  | { type: 'entity'; run: string; filename: string; blob: Blob }
  | { type: 'forgotten' }
  /** A question to the engine has arrived and need not be repeated; its answer may take minutes. */
  | { type: 'heard' }
  | { type: 'answer'; answer: unknown }
  | { type: 'error'; error: { code: ErrorCode; message: string; retry: Retry } };

/** The part of BroadcastChannel used here, so that tests can replace it. */
export interface TaskChannel {
  onmessage: ((event: { data: unknown }) => void) | null;
  postMessage(message: unknown): void;
  close(): void;
}

export interface ChannelSurroundings {
  open: (name: string) => TaskChannel;
  /** Runs `work` while holding the lock of this name. */
  alone: (name: string, signal: AbortSignal, work: () => Promise<void>) => Promise<unknown>;
}

const browser: ChannelSurroundings = {
  open: (name) => new BroadcastChannel(name) as TaskChannel,
  alone: (name, signal, work) =>
    // There are no Web Locks on insecure origins, and so no door.
    (navigator.locks as LockManager | undefined)?.request(name, { signal }, work) ?? Promise.resolve(),
};

/**
 * Serves the channel while this page lives, once no other page does.
 * @param askEngine answers questions that are not about jobs
 * @returns stops serving, or waiting to serve
 */
export function serveChannel(
  jobs: JobService,
  surroundings: ChannelSurroundings = browser,
  askEngine: AskEngine = nobody,
): () => void {
  const ended = new AbortController();
  const work = () =>
    new Promise<void>((done) => {
      const server = new ChannelServer(jobs, askEngine, surroundings.open);
      ended.signal.addEventListener('abort', () => {
        server.close();
        done();
      });
    });
  // Rejects if stopped while waiting.
  surroundings.alone(LOCK, ended.signal, work).catch(() => undefined);
  return () => ended.abort();
}

/** How many questions to remember; repeats only arrive within seconds. */
const HEARD = 256;

function isQuestion(type: unknown): type is EngineQuestion {
  return ENGINE_QUESTIONS.some((question) => question === type);
}

class ChannelServer {
  readonly #jobs: JobService;
  readonly #askEngine: AskEngine;
  readonly #open: (name: string) => TaskChannel;
  readonly #tasks: TaskChannel;
  /** Channels to followers and how to stop them, by id. Messages on two channels of one name might overtake each other. */
  readonly #followed = new Map<string, { channel: TaskChannel; stop: () => void }>();
  #last: Promise<void> = Promise.resolve();
  /** Ids of questions that arrived. A sender repeats a question until it is acknowledged, but it is asked only once. */
  readonly #heard = new Set<string>();

  constructor(jobs: JobService, askEngine: AskEngine, open: (name: string) => TaskChannel) {
    this.#jobs = jobs;
    this.#askEngine = askEngine;
    this.#open = open;
    this.#tasks = open(TASKS_CHANNEL);
    this.#tasks.onmessage = ({ data }) => {
      // In order, so jobs are queued in the order they were sent, but large files and the engine hold nobody up.
      const type = (data as { type?: unknown } | null)?.type;
      const isApart = type === 'entity' || isQuestion(type);
      const heard = isApart ? this.#hear(data) : this.#last.then(() => this.#hear(data));
      this.#last = isApart ? this.#last : heard;
    };
  }

  close(): void {
    this.#tasks.close();
    this.#followed.forEach(({ channel, stop }) => {
      stop();
      channel.close();
    });
    this.#followed.clear();
  }

  /** Never rejects. A message without a valid id gets no answer. */
  async #hear(data: unknown): Promise<void> {
    const to = (typeof data === 'object' && data !== null ? (data as { id?: unknown }).id : null) ?? null;
    if (typeof to !== 'string' || !JOB_ID.test(to)) {
      return;
    }
    try {
      const { type, ...asked } = data as { type?: unknown; id?: unknown };
      delete asked.id;
      if (isQuestion(type)) {
        this.#say(to, { type: 'heard' });
        if (this.#heard.has(to)) {
          return;
        }
        this.#heard.add(to);
        if (this.#heard.size > HEARD) {
          const [oldest] = this.#heard;
          this.#heard.delete(oldest);
        }
        this.#say(to, { type: 'answer', answer: await this.#askEngine(type, asked) });
        return;
      }
      await this.#obey(parse(messageSchema, data, 'The message'));
    } catch (thrown) {
      const { code, message, retry } = StudioError.from(thrown);
      this.#say(to, { type: 'error', error: { code, message, retry } });
    }
  }

  async #obey(message: TaskMessage): Promise<void> {
    const { id } = message;
    switch (message.type) {
      case 'submit':
        await this.#jobs.submit(parseOperation(message.operation), id);
        this.#follow(id);
        return;
      case 'repeat':
        await this.#jobs.submit((await this.#jobs.get(message.job_id)).operation, id);
        this.#follow(id);
        return;
      case 'follow':
        await this.#jobs.get(id);
        this.#follow(id);
        return;
      case 'cancel':
        this.#tell(id, await this.#jobs.cancel(id));
        return;
      case 'reorder':
        await this.#jobs.reorder(id, message.before);
        this.#tell(id, await this.#jobs.get(id));
        return;
      case 'forget':
        if (!isFinished(await this.#jobs.get(id))) {
          throw new StudioError(
            'invalid_operation',
            `The job "${id}" has not ended yet; cancel it first, then forget it.`,
          );
        }
        await this.#jobs.remove(id);
        this.#say(id, { type: 'forgotten' });
        return;
      case 'cancel_all':
        await this.#jobs.cancelAll();
        this.#say(id, { type: 'jobs', jobs: (await this.#jobs.list()).map(jobReport) });
        return;
      case 'list':
        this.#say(id, { type: 'jobs', jobs: (await this.#jobs.list()).map(jobReport) });
        return;
      case 'queue': {
        const { isPaused, forever } = message;
        if (forever !== undefined) {
          await this.#jobs.forever(forever);
        }
        if (isPaused !== undefined) {
          await this.#jobs.pause(isPaused);
        }
        this.#say(id, { type: 'queue', queue: await this.#jobs.queue() });
        return;
      }
      case 'entity': {
        const { run, filename } = message;
        this.#say(id, { type: 'entity', run, filename, blob: await this.#jobs.entity(run, filename) });
      }
    }
  }

  /** Reports the job from now on, and once more if asked again. */
  #follow(id: string): void {
    const earlier = this.#followed.get(id);
    earlier?.stop();
    const following = { channel: earlier?.channel ?? this.#open(UPDATES_CHANNEL + id), stop: () => {} };
    this.#followed.set(id, following);
    const stop = this.#jobs.follow(id, (job) => {
      this.#tell(id, job);
      if (isFinished(job)) {
        this.#followed.delete(id);
        following.stop();
        following.channel.close();
      }
    });
    const unread = this.#jobs.deltas(id, (delta) => this.#say(id, { type: 'delta', ...delta }));
    following.stop = () => {
      stop();
      unread();
    };
    if (this.#followed.get(id) !== following) {
      // It had already ended, and was reported before `follow` returned.
      following.stop();
    }
  }

  #tell(id: string, job: Job): void {
    this.#say(id, { type: isFinished(job) ? 'end' : 'job', job: jobReport(job) });
  }

  #say(id: string, update: TaskUpdate): void {
    const open = this.#followed.get(id)?.channel;
    const channel = open ?? this.#open(UPDATES_CHANNEL + id);
    channel.postMessage(update);
    if (!open) {
      channel.close();
    }
  }
}
