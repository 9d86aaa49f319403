/** Recorded runs in the form the page shows. */
import * as v from 'valibot';
import type { Job } from '../../core/job.ts';
import { wordsAsked } from '../../core/job_words.ts';
import type { Operation } from '../../core/operation.ts';
import type { RunEntity, RunRecord, RunStage, RunSummary } from '../../recorder/recorder_api.ts';
import { kindOfName, mediumNamed, resultMedium } from '../../media/registry.ts';
import { inSentence, number, ofLanguage, t } from '../messages/messages.svelte.ts';
import { megabytes } from '../parts/progress.ts';

/** One result of a run: a recorded file of some medium. */
export interface RunResult {
  file: string;
  /** The id of its medium. */
  medium: string;
  /** The recorded metadata, unvalidated. */
  metadata: Record<string, unknown>;
}

/** Text output of a step before the last. */
export interface RunStep {
  step: string;
  file: string;
}

export interface Run {
  id: string;
  /** Milliseconds since 1970. */
  time: number;
  prompt: string;
  /** The request, with files by their recorded names; null if it was not recorded. */
  operation: Operation | null;
  /** As accepted: restored by "use these settings". */
  parameters: Record<string, unknown>;
  /** The values actually used, including those nobody chose. */
  sampler: string;
  schedule: string;
  checkpoint: string;
  /** Its results, in order. */
  results: RunResult[];
  /** Text outputs of earlier steps, in order. */
  steps: RunStep[];
  notices: string[];
  seconds: number | null;
}

export function fromRecord(record: RunRecord): Run {
  return run(record.run_id, Date.parse(record.timestamp), record.operation, record.entities);
}

/** The run of a job that has just ended; null if it recorded nothing. */
export function fromJob(job: Job): Run | null {
  return job.run === null ? null : run(job.run, job.submittedAt, job.operation, job.entities);
}

function run(id: string, time: number, operation: Operation | null, entities: RunEntity[]): Run {
  const results = entities.flatMap(({ type, filename, metadata }): RunResult[] => {
    const medium = resultMedium({ type, filename });
    return medium ? [{ file: filename, medium: medium.id, metadata }] : [];
  });
  const steps = entities.flatMap(({ type, filename, metadata }): RunStep[] =>
    metadata.step === type && kindOfName(filename)?.medium.id === 'text' ? [{ step: type, file: filename }] : [],
  );
  const made = v.parse(madeSchema, results.at(-1)?.metadata ?? {});
  const asked = { ...operation?.parameters, ...filesGiven(entities, operation?.parameters ?? {}) };
  const parameters = { ...made.parameters, ...asked };
  return {
    id,
    time,
    prompt: wordsAsked(parameters),
    operation: operation && { ...operation, parameters: asked },
    parameters,
    sampler: made.sampler,
    schedule: made.schedule,
    checkpoint: made.checkpoint.name || (operation?.checkpoint ?? ''),
    results,
    steps,
    notices: made.notices,
    seconds: made.ms === null ? null : made.ms / 1000,
  };
}

/** Names of recorded input files, except those the operation itself still contains. */
function filesGiven(entities: RunEntity[], asked: Record<string, unknown>): Record<string, string | string[]> {
  const given = Object.groupBy(
    entities.filter(({ type }) => type.startsWith(GIVEN)),
    ({ type }) => type.slice(GIVEN.length),
  );
  return Object.fromEntries(
    Object.entries(given)
      .filter(([name]) => ![asked[name]].flat().some((value) => value instanceof Blob))
      .map(([name, list = []]) => {
        const files = list.map(({ filename }) => filename);
        return [name, files.length > 1 ? files : files[0]];
      }),
  );
}

const GIVEN = 'input_';

/** A run that only asked for text to edit has no result. */
export function isWorthShowing({ results, steps }: Run): boolean {
  return results.length + steps.length > 0;
}

/** The parts of a result's metadata that are shown; recordings are unvalidated. */
const madeSchema = v.object({
  parameters: v.fallback(v.record(v.string(), v.unknown()), {}),
  sampler: v.fallback(v.string(), ''),
  schedule: v.fallback(v.string(), ''),
  checkpoint: v.fallback(v.object({ name: v.string() }), { name: '' }),
  notices: v.fallback(v.array(v.string()), []),
  ms: v.fallback(v.nullable(v.number()), null),
});

/** "picture", "sound" … */
export function wordOf(result: RunResult | undefined): string {
  const medium = result && mediumNamed(result.medium);
  return medium ? inSentence(ofLanguage(medium.label)) : t('picture');
}

/** How a run ended, in a word or two. */
export function stageWord(stage: RunStage): string {
  return {
    running: t('Being made'),
    completed: t('Done'),
    failed: t('Failed'),
    cancelled: t('Cancelled'),
    interrupted: t('Broken off'),
  }[stage];
}

/** "1 run", "1,204 runs" */
export function runs(count: number): string {
  return t('1 run|{count} runs', { n: count, count: number(count) });
}

/** "34 kB", "1.2 MB" */
export function size(bytes: number): string {
  return bytes < 100_000 ? `${Math.ceil(bytes / 1000)} kB` : megabytes(bytes);
}

/** "37 runs (120 MB)" */
export function runsAndBytes(list: readonly { bytes: number }[]): string {
  return `${runs(list.length)} (${size(list.reduce((sum, { bytes }) => sum + bytes, 0))})`;
}

/** The ids that are not in the list of runs. */
export function missing(ids: Iterable<string>, list: readonly RunSummary[]): string[] {
  const known = new Set(list.map(({ run_id }) => run_id));
  return [...ids].filter((id) => !known.has(id));
}
