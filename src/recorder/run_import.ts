/**
 * Importing runs from a folder on disk that the page exported, here or on another device: `metadata.json` and the numbered files it names.
 * All of it is untrusted and validated here.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { RunEntity, RunRecord } from './recorder_api.ts';
import { parseFilename } from './entity_file.ts';
import type { FileStore } from './file_store.ts';
import { SCHEMA_VERSION, stateFact } from './journal.ts';
import { RunFolder } from './run_folder.ts';
import { METADATA, isRunId, parseRecord, startOf } from './run_record.ts';
import { sha256 } from './whole_file.ts';

/** Size of a run with some thousand entities; anything larger is no run. */
const LARGEST_METADATA = 16 * 2 ** 20;
const DEVICE = /^[0-9a-f-]{36}$/;
/** Milliseconds that a date can have in four digits of year. */
const LATEST = Date.UTC(9999, 11, 31);

/** A file of the folder that somebody chose. */
export interface ImportedFile {
  /** With forward slashes; the last folder is the run's own. */
  path: string;
  file: Blob;
}

export interface ImportedRun {
  record: RunRecord;
  /** In the order of their numbers, each with its hash. */
  entities: { entity: RunEntity; blob: Blob }[];
}

/**
 * Reads every file and verifies it against `metadata.json`. Files without a number, such as an operating system's, are ignored.
 * @throws StudioError `invalid_operation`, one sentence with the folder's name
 */
export async function readRunFolder(files: ImportedFile[]): Promise<ImportedRun> {
  const byName = new Map(files.map(({ path, file }) => [path.slice(path.lastIndexOf('/') + 1), file]));
  const described = byName.get(METADATA);
  if (!described) {
    throw refusal(`has no ${METADATA}; choose the folder of a run that was saved from Darkroom`);
  }
  const record = await recordIn(described);
  const names = new Set(record.entities.map(({ filename }) => filename));
  if (names.size < files.length) {
    const stranger = [...byName.keys()].find((name) => parseFilename(name) && !names.has(name));
    if (stranger !== undefined) {
      throw refusal(`holds "${stranger}", which its ${METADATA} does not name; take that file out`);
    }
  }
  const entities: ImportedRun['entities'] = [];
  for (const entity of [...record.entities].sort((a, b) => a.sequence - b.sequence)) {
    const blob = byName.get(entity.filename);
    if (!blob) {
      throw refusal(`lacks "${entity.filename}"; copy the whole folder`);
    }
    const hash = await sha256(blob);
    if (entity.sha256 !== '' && entity.sha256 !== hash) {
      throw refusal(`holds a "${entity.filename}" that was changed or damaged; copy it again`);
    }
    entities.push({ entity: { ...entity, sha256: hash }, blob });
  }
  return { record, entities };
}

/** Writes the run under its own id and numbers; the caller holds its lock and closes the folder. Leaves nothing behind on failure.
 */
export async function writeRun(store: FileStore, path: string, { record, entities }: ImportedRun): Promise<RunFolder> {
  const { run_id, timestamp, device_id, config_name, operation, expected_outputs, current_state, starred } = record;
  const opened = { run_id, timestamp, device_id, config_name, operation, expected_outputs };
  const folder = await RunFolder.create(store, path, [
    { record: 'run', schema_version: SCHEMA_VERSION, ...opened },
  ]).catch(async (error: unknown) => {
    await store.remove(path).catch(() => {});
    throw error;
  });
  try {
    for (const { entity, blob } of entities) {
      await folder.keep(entity, blob);
    }
    if (starred) {
      await folder.append({ record: 'star', starred: true });
    }
    const ending = current_state.stage === 'running' ? { stage: 'interrupted' as const } : current_state;
    // Last, so that an interrupted import is recognised.
    await folder.say(stateFact(ending, timestamp));
  } catch (error) {
    await folder.delete().catch(() => {});
    throw error;
  }
  return folder;
}

async function recordIn(file: Blob): Promise<RunRecord> {
  const text = file.size <= LARGEST_METADATA ? await file.text() : '';
  const version = v.safeParse(v.object({ schema_version: v.number() }), jsonOf(text));
  if (version.success && version.output.schema_version > SCHEMA_VERSION) {
    throw refusal('was recorded by a later version of Darkroom; reload the page to get that version');
  }
  const parsed = parseRecord(text);
  const start = parsed && isRunId(parsed.run_id) ? startOf(parsed.run_id) : NaN;
  const isSound =
    parsed !== null &&
    start <= LATEST &&
    // It becomes a folder's name.
    DEVICE.test(parsed.device_id) &&
    parsed.entities.every(({ sequence }) => Number.isSafeInteger(sequence) && sequence > 0) &&
    new Set(parsed.entities.map(({ sequence }) => sequence)).size === parsed.entities.length;
  if (!isSound) {
    throw refusal(`has a ${METADATA} that is damaged or not from Darkroom; copy it again`);
  }
  const record = { ...parsed };
  delete record.journal_length;
  return record;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function refusal(what: string): StudioError {
  return new StudioError('invalid_operation', `This folder cannot be read in as a run: it ${what}.`);
}
