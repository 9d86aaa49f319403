/** What earlier attempts of a job recorded; asked before anything is loaded for another one. */
import type * as Comlink from 'comlink';
import type { RecorderApi } from '../src/recorder/recorder_api.ts';
import type { EventSender } from './connection.ts';
import type { ExecuteRequest } from './generation_api.ts';

/**
 * The run to go on with; null = a new one. The queue stores a job's run and its end after they are on the disk, so a page can go in between: then
 * the job opened a run that the queue has not heard of, or has ended without the queue knowing. `isDone`: nothing is left to do, and all of it was told.
 */
export async function earlierRun(
  { jobId, submittedAt, attempt, run: known }: ExecuteRequest,
  recorder: Comlink.Remote<RecorderApi>,
  events: EventSender,
): Promise<{ run: string; isDone: boolean } | { run: null; isDone: false }> {
  const run = known ?? (attempt > 1 ? await recorder.runOf(jobId, submittedAt) : null);
  if (run === null) {
    return { run, isDone: false };
  }
  // Whoever goes on with it finds that it is gone, and says so.
  const record = await recorder.readRun(run).catch(() => null);
  if (record?.current_state.stage !== 'completed' || record.lost) {
    return { run, isDone: false };
  }
  events.send({ type: 'run', run });
  for (const entity of record.entities) {
    events.send({ type: 'entity', entity: { ...entity, run } });
  }
  return { run, isDone: true };
}
