/**
 * The journal of a run: what was saved, one line per fact, the truth that `metadata.json` is derived from.
 * A line is eight hex digits, a space, one JSON object in UTF-8 and a newline. The digits are the CRC-32 of the previous line's checksum
 * (four bytes, zero for the first line) followed by the JSON's bytes, so a torn, changed, missing, repeated or moved line ends the journal
 * there. Lines are only ever appended.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { RunEntity, RunRecord } from './recorder_api.ts';
import { parseFilename } from './entity_file.ts';

export const JOURNAL = 'journal';
export const SCHEMA_VERSION = 2;

const HEX = /^[0-9a-f]{64}$/;
const NEWLINE = 0x0a;

/** The run was opened; always the first line. */
const openedSchema = v.object({
  record: v.literal('run'),
  schema_version: v.literal(SCHEMA_VERSION),
  run_id: v.string(),
  timestamp: v.string(),
  device_id: v.string(),
  config_name: v.string(),
  operation: v.nullable(v.record(v.string(), v.unknown())),
  expected_outputs: v.array(v.string()),
  /** Of this browser's queue. */
  job: v.optional(v.string()),
});

/** A file of `length` bytes with that hash is beside the journal under its final name. */
const savedSchema = v.pipe(
  v.object({
    record: v.literal('entity'),
    sequence: v.pipe(v.number(), v.safeInteger(), v.minValue(1)),
    type: v.string(),
    filename: v.string(),
    length: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
    sha256: v.pipe(v.string(), v.regex(HEX)),
    timestamp: v.string(),
    metadata: v.record(v.string(), v.unknown()),
  }),
  // The name becomes part of a path, so it must not lead elsewhere.
  v.check(({ sequence, type, filename }) => {
    const parsed = parseFilename(filename);
    return parsed?.sequence === sequence && parsed.type === type;
  }),
);

const stateSchema = v.object({
  record: v.literal('state'),
  stage: v.picklist(['running', 'completed', 'failed', 'cancelled', 'interrupted']),
  timestamp: v.string(),
  error: v.optional(v.record(v.string(), v.unknown())),
});

const starSchema = v.object({ record: v.literal('star'), starred: v.boolean() });

/** The files are being removed, or were meant to be. */
const deletedSchema = v.object({ record: v.literal('deleted') });

const factSchema = v.variant('record', [openedSchema, savedSchema, stateSchema, starSchema, deletedSchema]);

export type Fact = v.InferOutput<typeof factSchema>;
export type Opened = v.InferOutput<typeof openedSchema>;
export type Saved = v.InferOutput<typeof savedSchema>;

export interface Lines {
  values: unknown[];
  /** Bytes up to the end of the last good line. */
  length: number;
  /** That line's checksum, which the next line is chained to. */
  checksum: number;
}

/** One line, chained to the line before. */
export function encodeLine(value: unknown, before: number): { bytes: Uint8Array<ArrayBuffer>; checksum: number } {
  const json = new TextEncoder().encode(JSON.stringify(value));
  const checksum = chained(before, json);
  const bytes = new Uint8Array(json.length + 10);
  bytes.set(new TextEncoder().encode(`${checksum.toString(16).padStart(8, '0')} `));
  bytes.set(json, 9);
  bytes[bytes.length - 1] = NEWLINE;
  return { bytes, checksum };
}

export function encodeLines(values: unknown[]): Uint8Array<ArrayBuffer>[] {
  let before = 0;
  return values.map((value) => {
    const { bytes, checksum } = encodeLine(value, before);
    before = checksum;
    return bytes;
  });
}

/** The values up to the first bad line. */
export function decodeLines(bytes: Uint8Array, before = 0): Lines {
  const values: unknown[] = [];
  let length = 0;
  let checksum = before;
  for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, length)) {
    const line = bytes.subarray(length, end);
    const told = new TextDecoder().decode(line.subarray(0, 9));
    const json = line.subarray(9);
    if (!/^[0-9a-f]{8} $/.test(told) || Number.parseInt(told, 16) !== chained(checksum, json)) {
      break;
    }
    try {
      values.push(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json)));
    } catch {
      break;
    }
    checksum = chained(checksum, json);
    length = end + 1;
  }
  return { values, length, checksum };
}

/** The state that results from a journal's facts. */
export interface RunState {
  opened: Opened;
  entities: Saved[];
  current: RunRecord['current_state'];
  starred: boolean;
  deleted: boolean;
}

/**
 * Null without a valid first line. Unknown kinds of facts are skipped.
 * @throws StudioError `storage_unavailable` if a later version of Darkroom wrote it
 */
export function runState(values: unknown[]): RunState | null {
  const first = v.safeParse(v.object({ record: v.literal('run'), schema_version: v.number() }), values[0]);
  if (first.success && first.output.schema_version > SCHEMA_VERSION) {
    throw new StudioError(
      'storage_unavailable',
      'This run was recorded by a later version of Darkroom; reload the page to get that version.',
    );
  }
  const opened = v.safeParse(openedSchema, values[0]);
  if (!opened.success) {
    return null;
  }
  const state: RunState = {
    opened: opened.output,
    entities: [],
    current: { stage: 'running' },
    starred: false,
    deleted: false,
  };
  for (const value of values.slice(1)) {
    const fact = v.safeParse(factSchema, value);
    if (fact.success) {
      add(state, fact.output);
    }
  }
  return state;
}

/** Applies one more fact to the state. */
export function add(state: RunState, fact: Fact): void {
  switch (fact.record) {
    case 'run':
      break;
    case 'entity':
      if (state.entities.every(({ sequence }) => sequence !== fact.sequence)) {
        state.entities.push(fact);
      }
      break;
    case 'state':
      state.current = { stage: fact.stage, ...(fact.error ? { error: fact.error as unknown as StudioErrorData } : {}) };
      break;
    case 'star':
      state.starred = fact.starred;
      break;
    case 'deleted':
      state.deleted = true;
  }
}

/** The facts for the journal of an older record, or of one that lost its journal. */
export function factsOf(record: RunRecord, lengths: Map<string, number>): Fact[] {
  const { run_id, timestamp, device_id, config_name, operation, expected_outputs, current_state } = record;
  const opened = { run_id, timestamp, device_id, config_name, operation, expected_outputs };
  const saved = record.entities.map((entity): Saved => ({
    record: 'entity',
    length: lengths.get(entity.filename) as number,
    ...entity,
  }));
  return [
    { record: 'run', schema_version: SCHEMA_VERSION, ...opened },
    ...saved,
    ...(current_state.stage === 'running' ? [] : [stateFact(current_state, timestamp)]),
    ...(record.starred ? [{ record: 'star' as const, starred: true }] : []),
  ];
}

export function stateFact({ stage, error }: RunRecord['current_state'], timestamp: string): Fact {
  return {
    record: 'state',
    stage,
    timestamp,
    ...(error ? { error: error as unknown as Record<string, unknown> } : {}),
  };
}

/** The content of the run's `metadata.json`. */
export function recordOf({ opened, entities, current, starred }: RunState): RunRecord {
  const { run_id, timestamp, device_id, config_name, operation, expected_outputs } = opened;
  return {
    schema_version: SCHEMA_VERSION,
    run_id,
    timestamp,
    device_id,
    config_name,
    operation: operation as RunRecord['operation'],
    expected_outputs,
    current_state: current,
    starred,
    entities: entities.map(entityOf).sort((a, b) => a.sequence - b.sequence),
  };
}

/** As `metadata.json` lists it. */
export function entityOf({ sequence, type, filename, timestamp, sha256, metadata }: Saved): RunEntity {
  return { sequence, type, filename, timestamp, sha256, metadata };
}

/** CRC-32 as in PNG and zip, over the checksum before and the bytes. */
function chained(before: number, bytes: Uint8Array): number {
  let crc = ~0;
  for (let shift = 24; shift >= 0; shift -= 8) {
    crc = TABLE[(crc ^ (before >>> shift)) & 0xff] ^ (crc >>> 8);
  }
  for (const byte of bytes) {
    crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) {
    crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  }
  return crc;
});
