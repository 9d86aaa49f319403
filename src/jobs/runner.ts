/** Drains the receiving end of the queue: one job at a time on one engine. */
import { StudioError, cancelled } from '../core/errors.ts';
import type { JobEvent } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import type { CheckpointSource } from '../../workers/protocol.ts';
import type { JobReceiver, JobRequest } from './queue.ts';

export interface Engine {
  execute(
    request: { jobId: string; operation: Operation; source: CheckpointSource },
    onEvent: (event: JobEvent) => void,
  ): Promise<unknown>;
  stop(jobId: string): Promise<void>;
}

/** Never returns: the engine is there for as long as the page is. */
export async function drain(receiver: JobReceiver<CheckpointSource>, engine: Engine): Promise<never> {
  for (;;) {
    await run(await receiver.take(), engine);
  }
}

async function run(request: JobRequest<CheckpointSource>, engine: Engine): Promise<void> {
  const stop = () => {
    // An engine that cannot be asked has failed; then `execute` says so.
    engine.stop(request.id).catch(() => {});
  };
  request.signal.addEventListener('abort', stop);
  try {
    if (request.signal.aborted) {
      throw cancelled();
    }
    await engine.execute({ jobId: request.id, operation: request.operation, source: request.payload }, (event) =>
      request.report(event),
    );
    request.complete();
  } catch (error) {
    request.fail(StudioError.from(error));
  } finally {
    request.signal.removeEventListener('abort', stop);
  }
}
