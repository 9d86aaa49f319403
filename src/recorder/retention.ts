/** Which runs to keep: the setting, its file and its consequences. */
import * as v from 'valibot';
import { parse } from '../core/operation.ts';
import type { Retention } from './recorder_api.ts';
import type { FileStore } from './file_store.ts';
import type { IndexEntry } from './run_index.ts';
import { jsonBlob } from './entity_file.ts';
import { writeWhole } from './whole_file.ts';

const FOLDER = 'exports';
const NAME = 'retention.json';

const count = v.pipe(
  v.number('must be a number'),
  v.safeInteger('must be a whole number'),
  v.minValue(1, 'must be 1 or more'),
);

const retentionSchema = v.variant('keep', [
  v.strictObject({ keep: v.literal('all') }),
  v.strictObject({ keep: v.literal('runs'), runs: count }),
  v.strictObject({ keep: v.literal('bytes'), bytes: count }),
]);

/** @throws StudioError `invalid_operation` */
export function parseRetention(value: unknown): Retention {
  return parse(retentionSchema, value, 'The setting of which runs are kept');
}

/** Everything, unless a valid setting exists. */
export async function readRetention(store: FileStore): Promise<Retention> {
  const text = (await (await store.read(`${FOLDER}/${NAME}`))?.text()) ?? '';
  try {
    return parseRetention(JSON.parse(text));
  } catch {
    return { keep: 'all' };
  }
}

export async function writeRetention(store: FileStore, retention: Retention): Promise<void> {
  await writeWhole(store, FOLDER, NAME, jsonBlob(retention));
}

/** The entries to delete, given all of them, newest first. */
export function outdated(newestFirst: Iterable<IndexEntry>, retention: Retention): IndexEntry[] {
  const found: IndexEntry[] = [];
  let bytes = 0;
  let runs = 0;
  for (const entry of newestFirst) {
    bytes += entry.bytes;
    runs += 1;
    const isBeyond =
      (retention.keep === 'runs' && runs > retention.runs) ||
      // The newest is kept even if it alone exceeds the limit.
      (retention.keep === 'bytes' && bytes > retention.bytes && runs > 1);
    if (isBeyond && !entry.starred && entry.stage !== 'running') {
      found.push(entry);
    }
  }
  return found;
}
