/**
 * Drains the receiving end of the queue, one job at a time on one engine, and recovers jobs whose engine is lost.
 * The policy: a lost GPU, or a dead or hanging worker, costs a restart. The engine creates new workers, and the job resumes in the same
 * run folder from its last saved point, with an identical result. After three restarts in one visit it fails, and something smaller is
 * offered. Running out of memory is never retried unchanged. Messages of earlier attempts are ignored.
 */
import { StudioError, cancelled } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { JobEvent, Offer, ResumePoint, Stage } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import type { CheckpointSource } from '../weights/checkpoint_source.ts';
import type { RunEnd } from '../recorder/recorder_api.ts';
import type { JobReceiver, JobRequest, Sourced } from './queue.ts';

export interface Work {
  jobId: string;
  /** Milliseconds since 1970. */
  submittedAt: number;
  operation: Operation;
  /** Of what it runs on, by ref. */
  sources: Sourced<CheckpointSource>;
  /** The number of attempts, including this one. */
  attempt: number;
  /** The earlier attempt's run; null = none is known. */
  run: string | null;
  /** Where to continue; null = at the beginning. */
  point: ResumePoint | null;
}

export interface Engine {
  /**
   * Does the work; if `signal` is aborted, it stops as soon as possible and rejects with `cancelled`. After `gpu_lost` and `worker_failed`
   * the next call runs on new workers.
   */
  execute(work: Work, onEvent: (event: JobEvent) => void, signal: AbortSignal): Promise<unknown>;
  /**
   * The same on another machine, or something smaller that may succeed on this one; null if nothing is known.
   * @param stage the one that failed; null = it never started, because it does not fit
   */
  smaller(work: Work, stage: Stage | null): Promise<Offer | null>;
  /** Records the end of a job's run, if it has one, that nobody continues. */
  closeRun(work: Pick<Work, 'jobId' | 'submittedAt' | 'run'>, stage: RunEnd, error: StudioErrorData): Promise<void>;
}

const RESTARTS = 3;

/** Errors after which the same is tried again. */
const LOST = new Set<StudioError['code']>(['gpu_lost', 'worker_failed']);

/** Errors after which only something smaller can succeed. */
const TOO_LARGE = new Set<StudioError['code']>(['out_of_memory', 'does_not_fit']);

/** Never returns: the engine lives as long as the page. */
export async function drain(receiver: JobReceiver<Sourced<CheckpointSource>>, engine: Engine): Promise<never> {
  for (;;) {
    await run(await receiver.take(), engine);
  }
}

async function run(request: JobRequest<Sourced<CheckpointSource>>, engine: Engine): Promise<void> {
  for (let restarts = 0; ; restarts++) {
    const attempt = new Attempt(request);
    try {
      await engine.execute(attempt.work, (event) => attempt.onEvent(event), request.signal);
      request.complete();
      return;
    } catch (thrown) {
      const error = request.signal.aborted ? cancelled() : StudioError.from(thrown);
      if (!attempt.mayBeRepeated(error)) {
        // A smaller picture makes no room for a language model, which runs alone.
        await end(request, attempt, error, TOO_LARGE.has(error.code) && error.engine === undefined, engine);
        return;
      }
      if (restarts === RESTARTS) {
        await end(request, attempt, lostAgain(error), true, engine);
        return;
      }
      request.restart();
      request.report({ type: 'notice', message: restartNotice(error, request.point, restarts + 1) });
    } finally {
      attempt.isOver = true;
    }
  }
}

class Attempt {
  readonly work: Work;
  isOver = false;
  #hasBegun = false;
  #stage: Stage | null = null;
  readonly #request: JobRequest<Sourced<CheckpointSource>>;

  constructor(request: JobRequest<Sourced<CheckpointSource>>) {
    const { id: jobId, submittedAt, operation, payload: sources, attempt, run, point } = request;
    this.#request = request;
    this.work = { jobId, submittedAt, operation, sources, attempt, run, point };
  }

  /** How far it came. */
  get stage(): Stage | null {
    return this.#stage;
  }

  onEvent(event: JobEvent): void {
    if (this.isOver) {
      return;
    }
    this.#hasBegun = true;
    if (event.type === 'progress') {
      this.#stage = event.progress.stage;
    }
    this.#request.report(event);
  }

  /** A worker that never started, because its script is missing, would not start the next time either. */
  mayBeRepeated({ code }: StudioError): boolean {
    return code === 'gpu_lost' || (LOST.has(code) && this.#hasBegun);
  }
}

async function end(
  request: JobRequest<Sourced<CheckpointSource>>,
  { work, stage }: Attempt,
  error: StudioError,
  isTooMuch: boolean,
  engine: Engine,
): Promise<void> {
  await engine
    .closeRun({ ...work, run: request.run }, error.code === 'cancelled' ? 'cancelled' : 'failed', error.toData())
    .catch(() => undefined); // The job's own outcome matters more; recovery marks the run at the next start.
  if (isTooMuch) {
    const where = error.code === 'does_not_fit' ? null : stage;
    const offer = await engine.smaller({ ...work, point: request.point }, where).catch(() => null);
    if (offer) {
      request.report({ type: 'offer', offer });
    }
  }
  request.fail(error);
}

function lostAgain(error: StudioError): StudioError {
  const worker = error.engine === 'language' ? 'The language engine' : 'The generator';
  const what = error.code === 'gpu_lost' ? 'The GPU was lost' : `${worker} stopped`;
  return new StudioError(
    error.code,
    `${what} ${RESTARTS + 1} times during this job, which is more than bad luck; try something smaller, or reload the page.`,
    { retry: 'smaller', cause: error.message },
  );
}

function restartNotice({ code, message }: StudioError, point: ResumePoint | null, restart: number): string {
  const what = code === 'gpu_lost' ? 'The GPU was lost' : message.replace(/;.*$|\.$/, '');
  const where = point?.state ? 'from where it was' : 'from the beginning';
  return `${what}; the job goes on ${where} (restart ${restart} of ${RESTARTS}).`;
}
