/** What a job reports while it runs: stages, steps, loading, its place on another machine. */
import { StudioError, cancelled } from '../src/core/errors.ts';
import type { Progress, Stage } from '../src/core/job.ts';
import { JobProgress, stagesOf } from '../src/core/job_progress.ts';
import { readRemoteModel } from '../src/core/remote.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import type { EventSender } from './connection.ts';
import type { Prepared } from './step_context.ts';

export class ProgressReport {
  readonly #graph: Prepared['graph'];
  readonly #events: EventSender;
  readonly #signal: AbortSignal;
  readonly #progress: JobProgress;
  #at: { step: string; stage: Stage; place: [step: number, steps: number] } | null = null;
  /** See {@link Progress.elsewhere}. */
  #elsewhere: Progress['elsewhere'];
  #failure: StudioError | null = null;

  constructor({ plan, graph }: Prepared, events: EventSender, signal: AbortSignal) {
    this.#graph = graph;
    this.#events = events;
    this.#signal = signal;
    const run = plan.steps
      .filter(({ given }) => given === null)
      .map(({ id, chunk, language }) => ({
        id,
        stages: catalogue.chunks[chunk].meta.stages,
        loads: language !== null && readRemoteModel(language) === null,
      }));
    this.#progress = new JobProgress(
      graph ? graph.withSteps(stagesOf(run, true)) : stagesOf(run, false),
      graph?.expected ?? {},
      seconds,
    );
  }

  /** The next report throws this: a result that cannot be recorded need not be computed. */
  fail(error: unknown): void {
    this.#failure = StudioError.from(error);
  }

  /** @throws StudioError `cancelled`, or what {@link fail} was given */
  report(step: string, stage: Stage, done = 0, steps = 0): void {
    this.#at = { step, stage, place: [done, steps] };
    this.#tell(step, stage, done, steps);
    this.#graph?.observeStep(step, stage, done, steps);
  }

  /** A step has computed its outputs, which are recorded now. Throws like {@link report}. */
  recording(): void {
    this.#elsewhere = undefined;
    this.#tell(null, 'record');
  }

  /** The place in another machine's queue. */
  place(server: string, ahead: number): void {
    this.#elsewhere = { server, ahead };
  }

  /** The networks are already on the device. */
  loaded(): void {
    this.#progress.load(1);
  }

  /** @param share of a step's own model, from 0 to 1 */
  loadOf(step: string, share: number): void {
    this.#send(this.#progress.load(share, step));
  }

  /**
   * Weights are loaded whenever a network is needed, after which the previous stage resumes.
   * @throws StudioError `cancelled`
   */
  load(share: number, isOver: boolean, begins: boolean): void {
    // Not in the middle, while the runtime is reading.
    if (this.#signal.aborted && begins) {
      throw cancelled();
    }
    this.#send(this.#progress.load(share));
    if (isOver && !this.#signal.aborted && this.#at) {
      const { step, stage, place } = this.#at;
      this.#tell(step, stage, ...place);
    }
  }

  finish(): void {
    this.#send(this.#progress.finish());
    this.#graph?.observe(this.#progress.measured);
  }

  #tell(of: string | null, stage: Stage, done = 0, steps = 0): void {
    if (this.#signal.aborted) {
      throw cancelled();
    }
    if (this.#failure) {
      throw this.#failure;
    }
    this.#send(this.#progress.report(of, stage, done, steps));
  }

  #send(progress: Progress): void {
    const elsewhere = this.#elsewhere;
    this.#events.send({ type: 'progress', progress: elsewhere ? { ...progress, elsewhere } : progress });
  }
}

function seconds(): number {
  return performance.now() / 1000;
}
