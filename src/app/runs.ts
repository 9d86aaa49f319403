/** Recorded runs as the page shows them. */
import * as v from 'valibot';
import type { Job } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import type { RunEntity, RunRecord } from '../../workers/protocol.ts';

export interface Run {
  id: string;
  /** Milliseconds since 1970. */
  time: number;
  prompt: string;
  /** As accepted: what "use these settings" brings back. */
  parameters: Record<string, unknown>;
  /** What was in fact used, also where nobody chose it. */
  sampler: string;
  schedule: string;
  checkpoint: string;
  /** File names of the finished pictures. */
  pictures: string[];
  notices: string[];
  seconds: number | null;
}

export function fromRecord(record: RunRecord): Run {
  return run(record.run_id, Date.parse(record.timestamp), record.operation, record.entities);
}

/** A job that has just ended; null when it recorded nothing. */
export function fromJob(job: Job): Run | null {
  return job.run === null ? null : run(job.run, job.submittedAt, job.operation, job.entities);
}

function run(id: string, time: number, operation: Operation | null, entities: RunEntity[]): Run {
  const pictures = entities.filter(({ type, filename }) => type === 'output_image' && filename.endsWith('.png'));
  const made = v.parse(madeSchema, pictures.at(-1)?.metadata ?? {});
  const parameters = { ...made.parameters, ...operation?.parameters };
  return {
    id,
    time,
    prompt: typeof parameters.prompt === 'string' ? parameters.prompt : '',
    parameters,
    sampler: made.sampler,
    schedule: made.schedule,
    checkpoint: made.checkpoint.name || (operation?.checkpoint ?? ''),
    pictures: pictures.map(({ filename }) => filename),
    notices: made.notices,
    seconds: made.ms === null ? null : made.ms / 1000,
  };
}

/** The metadata of a picture, as far as it is shown; recordings are foreign data. */
const madeSchema = v.object({
  parameters: v.fallback(v.record(v.string(), v.unknown()), {}),
  sampler: v.fallback(v.string(), ''),
  schedule: v.fallback(v.string(), ''),
  checkpoint: v.fallback(v.object({ name: v.string() }), { name: '' }),
  notices: v.fallback(v.array(v.string()), []),
  ms: v.fallback(v.nullable(v.number()), null),
});
