/**
 * `metadata.json`: its schema, and rebuilding it from a run's files if both it and the journal are missing.
 * Version 1, from before there were journals, is read as it is; version 2 is derived from the journal.
 */
import * as v from 'valibot';
import type { RunEntity, RunRecord } from './recorder_api.ts';
import { parseFilename } from './entity_file.ts';
import { SCHEMA_VERSION } from './journal.ts';

export const METADATA = 'metadata.json';
const OLDER_SCHEMA_VERSION = 1;

const RUN_ID = /^run_([0-9]{10,16})_[0-9a-f]{6}$/;

const recordSchema = v.object({
  schema_version: v.picklist([OLDER_SCHEMA_VERSION, SCHEMA_VERSION]),
  run_id: v.string(),
  timestamp: v.string(),
  device_id: v.string(),
  config_name: v.string(),
  operation: v.nullable(v.record(v.string(), v.unknown())),
  expected_outputs: v.array(v.string()),
  current_state: v.object({
    stage: v.picklist(['running', 'completed', 'failed', 'cancelled', 'interrupted']),
    error: v.optional(v.record(v.string(), v.unknown())),
  }),
  starred: v.optional(v.boolean()),
  journal_length: v.optional(v.number()),
  entities: v.array(
    v.pipe(
      v.object({
        sequence: v.number(),
        type: v.string(),
        filename: v.string(),
        timestamp: v.string(),
        sha256: v.union([v.literal(''), v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))]),
        metadata: v.record(v.string(), v.unknown()),
      }),
      // The name becomes part of a path, so it must not lead elsewhere.
      v.check(({ sequence, type, filename }) => {
        const parsed = parseFilename(filename);
        return parsed?.sequence === sequence && parsed.type === type;
      }),
    ),
  ),
});

/** A record as the file has it: with the bytes of the journal that it was derived from. */
export type Described = RunRecord & { journal_length?: number };

/** The record in the text of a `metadata.json`; null if it is torn, foreign or of another version. */
export function parseRecord(text: string): Described | null {
  try {
    const result = v.safeParse(recordSchema, JSON.parse(text));
    return result.success ? (result.output as unknown as Described) : null;
  } catch {
    return null;
  }
}

/** A record rebuilt from the files alone. */
export function rebuildRecord(run: string, deviceId: string, filenames: string[]): RunRecord {
  const timestamp = new Date(startOf(run)).toISOString();
  const entities: RunEntity[] = [];
  for (const filename of filenames) {
    const parsed = parseFilename(filename);
    if (parsed) {
      entities.push({ ...parsed, filename, timestamp, sha256: '', metadata: {} });
    }
  }
  entities.sort((a, b) => a.sequence - b.sequence);
  return {
    schema_version: OLDER_SCHEMA_VERSION,
    run_id: run,
    timestamp,
    device_id: deviceId,
    config_name: '',
    operation: null,
    expected_outputs: [],
    current_state: { stage: 'failed' },
    entities,
  };
}

export function isRunId(name: string): boolean {
  return RUN_ID.test(name);
}

/** Milliseconds since 1970 at which the run was opened. */
export function startOf(run: string): number {
  return Number(RUN_ID.exec(run)?.[1]);
}
