/** The states of a job and the ways between them, as a pure reducer. */
import { assert } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { Job, JobEvent, JobState } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';

export type JobChange =
  | { type: 'started'; at: number }
  | { type: 'event'; event: JobEvent }
  | { type: 'completed'; at: number }
  | { type: 'failed'; at: number; error: StudioErrorData }
  | { type: 'cancelled'; at: number };

/** From which states each change is possible. */
const ALLOWED: Record<JobChange['type'], readonly JobState[]> = {
  started: ['pending'],
  event: ['running'],
  completed: ['running'],
  failed: ['running'],
  cancelled: ['pending', 'running'],
};

export function newJob(id: string, operation: Operation, submittedAt: number): Job {
  return {
    id,
    operation,
    state: 'pending',
    submittedAt,
    startedAt: null,
    finishedAt: null,
    progress: null,
    notices: [],
    run: null,
    entities: [],
    error: null,
  };
}

export function isFinished(job: Job): boolean {
  return job.state === 'completed' || job.state === 'failed' || job.state === 'cancelled';
}

/** The job after `change`; the given one stays as it is. An impossible change is a bug and throws. */
export function reduce(job: Job, change: JobChange): Job {
  assert(ALLOWED[change.type].includes(job.state), `a ${job.state} job cannot be changed by "${change.type}"`);
  switch (change.type) {
    case 'started':
      return { ...job, state: 'running', startedAt: change.at };
    case 'event':
      return withEvent(job, change.event);
    case 'completed':
      return { ...job, state: 'completed', finishedAt: change.at, progress: null };
    case 'failed':
      return { ...job, state: 'failed', finishedAt: change.at, progress: null, error: change.error };
    case 'cancelled':
      return { ...job, state: 'cancelled', finishedAt: change.at, progress: null };
  }
}

function withEvent(job: Job, event: JobEvent): Job {
  switch (event.type) {
    case 'progress':
      return { ...job, progress: event.progress };
    case 'notice':
      return { ...job, notices: [...job.notices, event.message] };
    case 'run':
      return { ...job, run: event.run };
    case 'entity':
      return { ...job, entities: [...job.entities, event.entity] };
  }
}
