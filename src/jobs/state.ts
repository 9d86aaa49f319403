/** The states of a job and the transitions between them, as a pure reducer. */
import { assert } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { Entity, Job, JobEvent, JobState } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';

export type JobChange =
  | { type: 'started'; at: number }
  /** Its engine ended, and another continues the job. */
  | { type: 'restarted'; at: number }
  /** Its runner is gone (a closed tab, a crash): it waits again, keeping what it recorded. */
  | { type: 'interrupted' }
  /** It cannot run yet, for this reason; null = nothing holds it. */
  | { type: 'held'; obstacle: string | null }
  | { type: 'event'; event: JobEvent }
  | { type: 'completed'; at: number }
  | { type: 'failed'; at: number; error: StudioErrorData }
  | { type: 'cancelled'; at: number };

/** From which states each change is possible. */
const ALLOWED: Record<JobChange['type'], readonly JobState[]> = {
  started: ['pending'],
  restarted: ['running'],
  interrupted: ['running'],
  held: ['pending'],
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
    attempts: 0,
    obstacle: null,
    progress: null,
    notices: [],
    run: null,
    entities: [],
    error: null,
    offer: null,
  };
}

export function isFinished(job: Job): boolean {
  return job.state === 'completed' || job.state === 'failed' || job.state === 'cancelled';
}

/** The job after `change`, as a copy. An impossible change is a bug and throws. */
export function reduce(job: Job, change: JobChange): Job {
  assert(ALLOWED[change.type].includes(job.state), `a ${job.state} job cannot be changed by "${change.type}"`);
  switch (change.type) {
    case 'started':
      return { ...job, state: 'running', startedAt: change.at, attempts: job.attempts + 1, obstacle: null };
    case 'restarted':
      return { ...job, attempts: job.attempts + 1, progress: null };
    case 'interrupted':
      return { ...job, state: 'pending', progress: null };
    case 'held':
      return { ...job, obstacle: change.obstacle };
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
      // Each attempt repeats them.
      return job.notices.includes(event.message) ? job : { ...job, notices: [...job.notices, event.message] };
    case 'run':
      return { ...job, run: event.run, entities: job.entities.filter(({ run }) => run === event.run) };
    case 'entity':
      return has(job, event.entity) ? job : { ...job, entities: [...job.entities, event.entity] };
    case 'offer':
      return { ...job, offer: event.offer };
    case 'resume_point':
    case 'delta':
    case 'sound':
      // A point is stored beside the job, since it is large and watchers do not need it. Words and sounds are announced as they come.
      return job;
  }
}

/** A resumed attempt also reports what it finds already recorded. */
function has({ entities }: Job, { run, filename }: Entity): boolean {
  return entities.some((entity) => entity.run === run && entity.filename === filename);
}
