/** Drains the receiving end of the queue: one job at a time on one engine. */
import { StudioError } from '../core/errors.ts';
import type { JobEvent } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import type { CheckpointSource } from '../../workers/protocol.ts';
import type { JobReceiver, JobRequest } from './queue.ts';

export interface Work {
  jobId: string;
  operation: Operation;
  source: CheckpointSource;
}

export interface Engine {
  /** Does the work; when `signal` is aborted it stops as soon as it can and rejects with `cancelled`. */
  execute(work: Work, onEvent: (event: JobEvent) => void, signal: AbortSignal): Promise<unknown>;
}

/** Never returns: the engine is there for as long as the page is. */
export async function drain(receiver: JobReceiver<CheckpointSource>, engine: Engine): Promise<never> {
  for (;;) {
    await run(await receiver.take(), engine);
  }
}

async function run(request: JobRequest<CheckpointSource>, engine: Engine): Promise<void> {
  const { id: jobId, operation, payload: source, signal } = request;
  try {
    await engine.execute({ jobId, operation, source }, (event) => request.report(event), signal);
    request.complete();
  } catch (error) {
    request.fail(StudioError.from(error));
  }
}
