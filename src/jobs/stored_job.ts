/** A job as stored in the database, the queue's own record, and the order of waiting jobs. */
import * as v from 'valibot';
import { ERROR_CODES } from '../core/errors.ts';
import type { Job, ResumePoint } from '../core/job.ts';
import { operationSchema } from '../core/operation.ts';
import type { Operation } from '../core/operation.ts';

/** Schema of every record here. Records of a later schema are left alone and not shown. */
export const SCHEMA_VERSION = 2;

export const keyOf = {
  job: (id: string) => `job/${id}`,
  /** Separate from the job, because it is large and only its runner reads it. */
  point: (id: string) => `point/${id}`,
  queue: 'queue',
} as const;

/** A job's place in the queue: the band of its priority, unless somebody moved it; the lowest place in a band is next. */
export interface Position {
  band: number;
  place: number;
}

export interface StoredJob {
  schema_version: typeof SCHEMA_VERSION;
  /** Grows with every change, so a stale read never replaces something newer. */
  revision: number;
  job: Job;
  position: Position;
  /** Whether somebody cancelled it while it ran. */
  isCancelled: boolean;
  /** The turn it runs in; reports from any other are too late. Null while nobody runs it. */
  runner: string | null;
  /** The job that "generate forever" made it from; null if somebody submitted it. */
  series: string | null;
}

export interface QueueRecord {
  schema_version: typeof SCHEMA_VERSION;
  isPaused: boolean;
  forever: string | null;
  /** Number of changes to anything here; whoever knows of fewer has missed some. */
  changes: number;
}

export const EMPTY_QUEUE: QueueRecord = { schema_version: SCHEMA_VERSION, isPaused: false, forever: null, changes: 0 };

const BANDS: Record<Operation['priority'], number> = { high: 0, normal: 1, low: 2 };

export function bandOf(operation: Operation): number {
  return BANDS[operation.priority];
}

/** Negative if `a` runs before `b`. */
export function byPosition(a: StoredJob, b: StoredJob): number {
  return a.position.band - b.position.band || a.position.place - b.position.place || bySubmission(a, b);
}

/** Negative if `a` was submitted before `b`. */
export function bySubmission(a: StoredJob, b: StoredJob): number {
  const places = a.position.place - b.position.place;
  return a.job.submittedAt - b.job.submittedAt || places || (a.job.id < b.job.id ? -1 : 1);
}

export const progressSchema = v.object({
  // Absent where an earlier version wrote it.
  of: v.optional(v.nullable(v.string()), null),
  stage: v.string(),
  step: v.number(),
  steps: v.number(),
  fraction: v.number(),
  secondsLeft: v.nullable(v.number()),
  elsewhere: v.fallback(v.optional(v.object({ server: v.string(), ahead: v.number() })), undefined),
});

const nullableString = v.nullable(v.string());
const nullableNumber = v.nullable(v.number());

/** What a job was before it knew attempts, obstacles and offers. */
const firstJobEntries = {
  id: v.string(),
  operation: operationSchema,
  state: v.picklist(['pending', 'running', 'completed', 'failed', 'cancelled']),
  submittedAt: v.number(),
  startedAt: nullableNumber,
  finishedAt: nullableNumber,
  notices: v.array(v.string()),
  run: nullableString,
  entities: v.array(
    v.object({
      run: v.string(),
      sequence: v.number(),
      type: v.string(),
      filename: v.string(),
      timestamp: v.string(),
      sha256: v.string(),
      metadata: v.record(v.string(), v.unknown()),
    }),
  ),
  error: v.nullable(
    v.object({
      code: v.picklist(ERROR_CODES),
      message: v.string(),
      retry: v.picklist(['same', 'smaller', 'never']),
      cause: v.optional(v.string()),
    }),
  ),
};

const jobSchema = v.object({
  ...firstJobEntries,
  attempts: v.number(),
  obstacle: nullableString,
  // Worth less than the job.
  progress: v.fallback(v.nullable(progressSchema), null),
  offer: v.fallback(v.nullable(v.object({ label: v.string(), operation: operationSchema })), null),
});

const storedSchema = v.object({
  schema_version: v.literal(SCHEMA_VERSION),
  revision: v.number(),
  job: jobSchema,
  position: v.object({ band: v.number(), place: v.number() }),
  isCancelled: v.boolean(),
  runner: nullableString,
  series: nullableString,
});

/** Schema 1: a position was one number within the priority, and who ran a job was not written down. */
const firstStoredSchema = v.pipe(
  v.object({
    schema_version: v.literal(1),
    job: v.object(firstJobEntries),
    position: v.number(),
    isCancelled: v.boolean(),
  }),
  v.transform(({ job, position, isCancelled }): StoredJob => ({
    schema_version: SCHEMA_VERSION,
    revision: 0,
    job: { ...job, attempts: job.startedAt === null ? 0 : 1, obstacle: null, progress: null, offer: null },
    position: { band: bandOf(job.operation), place: position },
    isCancelled,
    runner: null,
    series: null,
  })),
);

const queueSchema = v.object({
  schema_version: v.literal(SCHEMA_VERSION),
  isPaused: v.boolean(),
  forever: nullableString,
  changes: v.number(),
});

const firstQueueSchema = v.pipe(
  v.object({ schema_version: v.literal(1), isPaused: v.boolean(), forever: nullableString }),
  v.transform((queue): QueueRecord => ({ ...queue, schema_version: SCHEMA_VERSION, changes: 0 })),
);

/** Null for anything this version cannot read: nothing, something damaged, or a later version's record. */
export function parseStoredJob(value: unknown): StoredJob | null {
  const result = v.safeParse(v.union([storedSchema, firstStoredSchema]), value);
  return result.success ? result.output : null;
}

export function parseQueue(value: unknown): QueueRecord {
  const result = v.safeParse(v.union([queueSchema, firstQueueSchema]), value);
  return result.success ? result.output : EMPTY_QUEUE;
}

const pointSchema = v.object({
  parameters: v.record(v.string(), v.record(v.string(), v.unknown())),
  state: v.unknown(),
});

/** Null if it cannot be read; the job then starts over. */
export function parsePoint(value: unknown): ResumePoint | null {
  const result = v.safeParse(pointSchema, value);
  return result.success ? result.output : null;
}
