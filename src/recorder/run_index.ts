/**
 * The index of all runs, so that listing and searching need not open run folders. Derived from the folders, and rebuilt from them if
 * missing or wrong; failing to update it is never an error. It is one file of chained lines (see journal.ts) that all tabs append to: a
 * header, then one line per change, of which the last one per run counts.
 * It also bears witness to the folders. A killed browser can lose folders and files (src/storage/torn_log.ts), but not what was appended
 * to a file it keeps. A run listed here and not being deleted, whose folder is gone, was lost by the browser. The index also remembers how
 * the newest runs were made, and a thumbnail of each, so that they can be made again.
 */
import * as v from 'valibot';
import { wordsAsked } from '../core/job_words.ts';
import { givenMedium, resultMedium } from '../media/registry.ts';
import type { RunQuery, RunRecord, RunSummary } from './recorder_api.ts';
import type { FileStore } from './file_store.ts';
import { decodeLines, encodeLine, encodeLines } from './journal.ts';
import type { Locks } from './locks.ts';
import { isRunId, startOf } from './run_record.ts';
import { hex, isLeftover, writeWhole } from './whole_file.ts';

const FOLDER = 'exports';
const NAME = 'runs.index';
export const LOCK = 'darkroom:recordings';
/** The header, whose random part tells whether two reads saw the same file. */
const HEADER_BYTES = 52;
/** How many outdated lines to keep before the file is rewritten. */
const SPARE_LINES = 500;
/** How many of the newest runs to remember in detail, since a kill takes what was stored last. */
const REMEMBERED = 200;
/** Of a remembered operation, in characters of JSON. */
const LONGEST_OPERATION = 20_000;
/** Of a prompt, in characters: enough to search and show. */
const LONGEST_TEXT = 2000;

const entrySchema = v.object({
  run_id: v.pipe(v.string(), v.check(isRunId)),
  folder: v.pipe(v.string(), v.regex(/^exports\/json\/[^/]+\/[^/]+\/run_[0-9a-f_]+$/)),
  /** Recovery must look at its folder. */
  due: v.boolean(),
  /** Its folder is being removed, or should have been. */
  leaving: v.optional(v.boolean(), false),
  /** The browser has lost its folder. */
  lost: v.optional(v.boolean(), false),
  timestamp: v.string(),
  stage: v.picklist(['running', 'completed', 'failed', 'cancelled', 'interrupted']),
  starred: v.boolean(),
  config_name: v.string(),
  checkpoint: v.string(),
  prompt: v.string(),
  negative_prompt: v.string(),
  entities: v.number(),
  /** Number of results. The name dates from when all of them were pictures. */
  pictures: v.number(),
  /** Absent in lines of earlier versions. */
  picture: v.optional(v.string(), ''),
  name: v.optional(v.string(), ''),
  bytes: v.number(),
  job: v.optional(v.string()),
});

export type IndexEntry = v.InferOutput<typeof entrySchema>;

const memorySchema = v.object({
  /** As accepted, without its pictures; null if there was no operation. */
  operation: v.optional(v.nullable(v.record(v.string(), v.unknown()))),
  /** A small picture of the first one made, as a data: URL. */
  thumbnail: v.optional(v.string()),
});

export type Memory = v.InferOutput<typeof memorySchema>;

const changeSchema = v.variant('record', [
  v.object({ record: v.literal('put'), entry: entrySchema }),
  v.object({ record: v.literal('drop'), run_id: v.string() }),
  v.object({ record: v.literal('memory'), run_id: v.string(), memory: memorySchema }),
]);

type Change = v.InferOutput<typeof changeSchema>;

interface Listed {
  entry: IndexEntry;
  start: number;
  /** All searchable text, in lower case. */
  text: string;
}

export class RunIndex {
  readonly #store: FileStore;
  readonly #locks: Locks;
  readonly #listed = new Map<string, Listed>();
  /** In the order in which they were first remembered. */
  readonly #memories = new Map<string, Memory>();
  #sorted: Listed[] | null = null;
  /** As far as the file was read. */
  #read: { header: string; length: number; checksum: number; lines: number } | null = null;
  /** Not in the file yet. */
  #unwritten: Change[] = [];

  constructor(store: FileStore, locks: Locks) {
    this.#store = store;
    this.#locks = locks;
  }

  /** Reads the file for the first time, removes what interrupted writes left beside it, and drops outdated lines. */
  async open(): Promise<void> {
    await this.#locks.within(LOCK, async () => {
      for (const { name, kind } of await this.#store.list(FOLDER)) {
        if (kind === 'file' && isLeftover(name)) {
          await this.#store.remove(`${FOLDER}/${name}`);
        }
      }
      await this.#catchUp();
      if (this.#read && this.#read.lines > 2 * this.#listed.size + SPARE_LINES) {
        await this.#compact();
      }
    });
  }

  get(run: string): IndexEntry | null {
    return this.#listed.get(run)?.entry ?? null;
  }

  get runs(): string[] {
    return [...this.#listed.keys()];
  }

  /** The newest run of a job that has not been lost. */
  ofJob(job: string, since: number): IndexEntry | null {
    const listed = this.#byNewest().find(({ entry }) => entry.job === job && !entry.lost && !entry.leaving);
    return listed && listed.start >= since ? listed.entry : null;
  }

  /** Takes in what other tabs have added. */
  async refresh(): Promise<void> {
    await this.#locks.within(LOCK, () => this.#catchUp()).catch(() => {});
  }

  async put(...entries: IndexEntry[]): Promise<void> {
    await this.#change(entries.map((entry) => ({ record: 'put', entry })));
  }

  /**
   * @param memory new details to remember about a run
   * @param entries to add in the same write
   */
  async remember(run_id: string, memory: Memory, ...entries: IndexEntry[]): Promise<void> {
    const isLong = JSON.stringify(memory).length > LONGEST_OPERATION;
    await this.#change([
      ...entries.map((entry): Change => ({ record: 'put', entry })),
      ...(isLong ? [] : [{ record: 'memory' as const, run_id, memory }]),
    ]);
  }

  /** Runs that the browser has lost, newest first, with what is remembered of them. */
  lost(): { entry: IndexEntry; memory: Memory }[] {
    return this.#byNewest()
      .filter(({ entry }) => entry.lost)
      .map(({ entry }) => ({ entry, memory: this.#memories.get(entry.run_id) ?? {} }));
  }

  async drop(...runs: string[]): Promise<void> {
    await this.#change(runs.map((run_id) => ({ record: 'drop', run_id })));
  }

  /** Newest first, all that are there and that the query asks for from `before` on; its limit is the caller's. */
  *select({ before, text = '', starred }: Omit<RunQuery, 'limit'>): Generator<IndexEntry> {
    const words = text
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== '');
    const last = before === undefined ? null : { entry: { run_id: before }, start: startOf(before) };
    for (const listed of this.#byNewest()) {
      const isWanted =
        !listed.entry.lost &&
        (last === null || byNewest(last, listed) < 0) &&
        (starred === undefined || listed.entry.starred === starred) &&
        words.every((word) => listed.text.includes(word));
      if (isWanted) {
        yield listed.entry;
      }
    }
  }

  #byNewest(): Listed[] {
    return (this.#sorted ??= [...this.#listed.values()].sort(byNewest));
  }

  async #change(changes: Change[]): Promise<void> {
    if (changes.length === 0) {
      return;
    }
    changes.forEach((change) => this.#apply(change));
    this.#unwritten.push(...changes);
    await this.#locks
      .within(LOCK, () => this.#write())
      .catch(() => {
        // They stay in memory until the next change writes them, or the next start finds them in the folders.
      });
  }

  async #write(): Promise<void> {
    await this.#catchUp();
    const changes = this.#unwritten;
    const file = await this.#store.append(`${FOLDER}/${NAME}`);
    try {
      let { length, checksum, lines, header } = this.#read ?? { length: 0, checksum: 0, lines: 0, header: '' };
      const values: unknown[] = length === 0 ? [newHeader(), ...changes] : changes;
      const bytes: Uint8Array<ArrayBuffer>[] = [];
      for (const value of values) {
        const line = encodeLine(value, checksum);
        bytes.push(line.bytes);
        checksum = line.checksum;
      }
      const added = new Uint8Array(await new Blob(bytes).arrayBuffer());
      // The last good line may be followed by a torn one.
      await file.truncate(length);
      await file.write(added, length);
      await file.flush();
      header ||= headerOf(added);
      lines += values.length;
      length += added.length;
      this.#read = { header, length, checksum, lines };
      this.#unwritten = this.#unwritten.slice(changes.length);
    } finally {
      await file.close();
    }
  }

  async #catchUp(): Promise<void> {
    const file = await this.#store.read(`${FOLDER}/${NAME}`);
    if (!file) {
      this.#read = null;
      return;
    }
    const header = headerOf(new Uint8Array(await file.slice(0, HEADER_BYTES).arrayBuffer()));
    const known = this.#read?.header === header && this.#read.length <= file.size ? this.#read : null;
    if (known?.length === file.size) {
      return;
    }
    const from = known ?? { length: 0, checksum: 0, lines: 0 };
    const bytes = new Uint8Array(await file.slice(from.length).arrayBuffer());
    const { values, length, checksum } = decodeLines(bytes, from.checksum);
    if (!known) {
      this.#listed.clear();
      this.#memories.clear();
      this.#sorted = null;
    }
    const read = { header, length: from.length + length, checksum, lines: from.lines + values.length };
    this.#read = read.length === 0 ? null : read;
    for (const value of values) {
      const change = v.safeParse(changeSchema, value);
      if (change.success) {
        this.#apply(change.output);
      }
    }
    this.#unwritten.forEach((change) => this.#apply(change));
  }

  async #compact(): Promise<void> {
    const changes = [...this.#listed.values()].map(({ entry }): Change => ({ record: 'put', entry }));
    for (const [run_id, memory] of this.#memories) {
      changes.push({ record: 'memory', run_id, memory });
    }
    await writeWhole(this.#store, FOLDER, NAME, new Blob(encodeLines([newHeader(), ...changes])));
    this.#unwritten = [];
    await this.#catchUp();
  }

  #apply(change: Change): void {
    if (change.record === 'memory') {
      this.#memories.set(change.run_id, { ...this.#memories.get(change.run_id), ...change.memory });
      this.#forgetOld();
      return;
    }
    this.#sorted = null;
    if (change.record === 'drop') {
      this.#listed.delete(change.run_id);
      this.#memories.delete(change.run_id);
      return;
    }
    const { entry } = change;
    const { run_id, prompt, negative_prompt, config_name, checkpoint, name } = entry;
    const text = [prompt, negative_prompt, config_name, checkpoint, run_id, name].join('\n').toLowerCase();
    this.#listed.set(run_id, { entry, start: startOf(run_id), text });
  }

  #forgetOld(): void {
    for (const run of this.#memories.keys()) {
      if (this.#memories.size <= REMEMBERED) {
        return;
      }
      if (!this.#listed.get(run)?.entry.lost) {
        this.#memories.delete(run);
      }
    }
  }
}

export function indexEntry(
  folder: string,
  record: RunRecord,
  { bytes, due, job }: { bytes: number; due: boolean; job?: string },
): IndexEntry {
  const { run_id, timestamp, current_state, starred = false, config_name, operation, entities } = record;
  const text = (name: string) => {
    const value = operation?.parameters?.[name];
    return typeof value === 'string' ? value.slice(0, LONGEST_TEXT) : '';
  };
  const results = entities.filter((entity) => resultMedium(entity) !== null);
  const shown = results[0] ?? entities.find((entity) => givenMedium(entity) !== null);
  const name = operation === null ? shown?.metadata.name : undefined;
  return {
    run_id,
    folder,
    due,
    leaving: false,
    lost: false,
    timestamp,
    stage: current_state.stage,
    starred,
    config_name,
    checkpoint: operation?.checkpoint ?? '',
    prompt: wordsAsked(operation?.parameters ?? {}).slice(0, LONGEST_TEXT),
    negative_prompt: text('negative_prompt'),
    entities: entities.length,
    pictures: results.length,
    picture: shown?.filename ?? '',
    name: typeof name === 'string' ? name.slice(0, LONGEST_TEXT) : '',
    bytes,
    ...(job === undefined ? {} : { job }),
  };
}

export function summary({
  folder: _folder,
  due: _due,
  leaving: _leaving,
  lost: _lost,
  pictures: results,
  job: _job,
  ...shown
}: IndexEntry): RunSummary {
  return { ...shown, results };
}

function newHeader() {
  return { record: 'index', id: hex(crypto.getRandomValues(new Uint8Array(8))) };
}

function headerOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes.subarray(0, HEADER_BYTES));
}

/** The random part orders runs of the same millisecond. */
function byNewest(
  a: { entry: { run_id: string }; start: number },
  b: { entry: { run_id: string }; start: number },
): number {
  return b.start - a.start || Number(a.entry.run_id < b.entry.run_id) - Number(a.entry.run_id > b.entry.run_id);
}
