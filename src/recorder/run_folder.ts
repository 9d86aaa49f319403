/**
 * One run's folder and the protocol by which it is written: the entity's file under a name that is passed over, then its
 * move to its own name, then a line of the journal, then a flush; only then it is saved. `metadata.json` follows from the
 * journal and may be behind it until recovery. Whoever makes or opens a RunFolder holds the run's lock.
 */
import { StudioError } from '../core/errors.ts';
import type { RunEntity, RunRecord } from './recorder_api.ts';
import { filename, jsonBlob, parseFilename } from './entity_file.ts';
import type { EntityFile } from './entity_file.ts';
import type { AppendFile, FileStore } from './file_store.ts';
import {
  JOURNAL,
  add,
  decodeLines,
  encodeLine,
  encodeLines,
  factsOf,
  recordOf,
  runState,
  stateFact,
} from './journal.ts';
import type { Fact, RunState, Saved } from './journal.ts';
import { METADATA, parseRecord, rebuildRecord } from './run_record.ts';
import type { Described } from './run_record.ts';
import { isLeftover, sha256, writeWhole } from './whole_file.ts';

export class RunFolder {
  readonly path: string;
  readonly #store: FileStore;
  readonly #journal: AppendFile;
  readonly #state: RunState;
  /** Of the journal's good lines. */
  #length: number;
  #checksum: number;
  /** The next entity's. Numbers that may be taken on the disk are not given again. */
  #next: number;
  /** There may be bytes behind the good lines, which must go before another line is written. */
  #ragged: boolean;
  /** Files whose line could not be taken back; they go when it is. */
  readonly #doubtful: string[] = [];
  /** metadata.json does not say what the journal says. */
  #behind = true;

  private constructor(
    store: FileStore,
    path: string,
    journal: AppendFile,
    read: { state: RunState; length: number; checksum: number; ragged: boolean },
  ) {
    this.#store = store;
    this.path = path;
    this.#journal = journal;
    this.#state = read.state;
    this.#length = read.length;
    this.#checksum = read.checksum;
    this.#ragged = read.ragged;
    this.#next = 1 + Math.max(0, ...read.state.entities.map(({ sequence }) => sequence));
  }

  /** Makes the folder of a new run, or the journal of a folder that has none. */
  static async create(store: FileStore, path: string, facts: Fact[]): Promise<RunFolder> {
    // All of its first lines or none: a part of them would be taken for the truth.
    await writeWhole(store, path, JOURNAL, new Blob(encodeLines(facts)));
    const folder = await RunFolder.#load(store, path);
    if (!folder) {
      throw new StudioError('storage_unavailable', 'The browser did not keep what was written; reload the page.', {
        retry: 'same',
      });
    }
    await folder.#describe();
    return folder;
  }

  /**
   * Opens the folder after whatever happened to it, and leaves it as if nothing had: the journal ends with its last good
   * line, leftovers are swept, whole files without a line get one, a run that was running is interrupted, metadata.json
   * says what the journal says. Doing it twice is doing it once, and it may itself be broken off anywhere. A folder of
   * the older layout gets its journal. Null when there was nothing to keep, and then the folder is gone.
   */
  static async recover(store: FileStore, path: string, now: Date): Promise<RunFolder | null> {
    const names = await filesIn(store, path);
    const text = (await (await store.read(`${path}/${METADATA}`))?.text()) ?? null;
    const described = text === null ? null : parseRecord(text);
    let folder = names.includes(JOURNAL) ? await RunFolder.#load(store, path) : null;
    if (folder?.state.deleted) {
      await folder.delete();
      return null;
    }
    if (!folder) {
      if (!described && !names.some(parseFilename)) {
        await store.remove(path);
        return null;
      }
      folder = await RunFolder.create(store, path, await olderFacts(store, path, described, names));
    }
    try {
      await folder.#mend(names, described, now);
      folder.#behind = text !== (await folder.#metadata().text());
      await folder.#describe();
      return folder;
    } catch (error) {
      await folder.close();
      throw error;
    }
  }

  get state(): RunState {
    return this.#state;
  }

  get record(): RunRecord {
    return recordOf(this.#state);
  }

  /** False while metadata.json could not be written. */
  get isDescribed(): boolean {
    return !this.#behind;
  }

  /** Resolves when the entity is saved. After a rejection it is not, and the folder can be written as before. */
  async save(type: string, { blob, extension }: EntityFile, timestamp: string, metadata: Saved['metadata']) {
    const sequence = this.#next;
    const name = filename(sequence, type, extension);
    const saved: Saved = {
      record: 'entity',
      sequence,
      type,
      filename: name,
      length: blob.size,
      sha256: await sha256(blob),
      timestamp,
      metadata,
    };
    try {
      await writeWhole(this.#store, this.path, name, blob);
      await this.append(saved);
    } catch (error) {
      await this.#takeBack(name);
      throw error;
    }
    this.#next = sequence + 1;
    await this.#describe();
    return saved;
  }

  /** Saves an entity under a number that it has already; the rest as {@link save}. Its hash was compared with the content's. */
  async keep({ sequence, type, filename: name, sha256: hash, timestamp, metadata }: RunEntity, blob: Blob) {
    const file = { sequence, type, filename: name, length: blob.size, sha256: hash };
    await writeWhole(this.#store, this.path, name, blob);
    await this.append({ record: 'entity', ...file, timestamp, metadata });
    this.#next = Math.max(this.#next, sequence + 1);
  }

  /** Ends, reopens or stars the run. */
  async say(fact: Fact): Promise<void> {
    await this.append(fact);
    await this.#describe();
  }

  /** Adds a line to the journal; resolves when it is on the disk. */
  async append(fact: Fact): Promise<void> {
    await this.#settle();
    const { bytes, checksum } = encodeLine(fact, this.#checksum);
    this.#ragged = true;
    try {
      await this.#journal.write(bytes, this.#length);
      await this.#journal.flush();
    } catch (error) {
      await this.#settle().catch(() => {});
      throw error;
    }
    this.#ragged = false;
    this.#length += bytes.length;
    this.#checksum = checksum;
    add(this.#state, fact);
    this.#behind = true;
  }

  /** Removes the run. The journal goes last, so that an interrupted removal is known and finished. */
  async delete(): Promise<void> {
    if (!this.#state.deleted) {
      // On a full disk there is no room for the line, and removing must be possible all the same.
      await this.append({ record: 'deleted' }).catch(() => {});
    }
    await this.close();
    for (const name of await filesIn(this.#store, this.path)) {
      if (name !== JOURNAL) {
        await this.#store.remove(`${this.path}/${name}`);
      }
    }
    await this.#store.remove(this.path);
  }

  async close(): Promise<void> {
    await this.#journal.close();
  }

  static async #load(store: FileStore, path: string): Promise<RunFolder | null> {
    const journal = await store.append(`${path}/${JOURNAL}`);
    try {
      const bytes = await journal.read();
      const { values, length, checksum } = decodeLines(bytes);
      const state = runState(values);
      if (state) {
        return new RunFolder(store, path, journal, { state, length, checksum, ragged: length < bytes.length });
      }
    } catch (error) {
      await journal.close();
      throw error;
    }
    await journal.close();
    return null;
  }

  async #mend(names: string[], described: Described | null, now: Date): Promise<void> {
    // Only of a journal that was damaged from outside can metadata.json know more.
    const known = (described?.journal_length ?? 0) > this.#length ? described : null;
    await this.#settle();
    for (const name of names.filter(isLeftover)) {
      await this.#store.remove(`${this.path}/${name}`);
    }
    for (const { name, sequence, type } of this.#strays(names)) {
      // Moved to its name only after it was written and closed, so it is whole.
      const blob = await this.#store.read(`${this.path}/${name}`);
      if (blob) {
        const hash = await sha256(blob);
        const told = described?.entities.find((entity) => entity.filename === name && entity.sha256 === hash);
        const { timestamp, metadata } = told ?? { timestamp: now.toISOString(), metadata: {} };
        const file = { sequence, type, filename: name, length: blob.size, sha256: hash };
        await this.append({ record: 'entity', ...file, timestamp, metadata });
      }
      this.#next = Math.max(this.#next, sequence + 1);
    }
    if (known?.starred && !this.#state.starred) {
      await this.append({ record: 'star', starred: true });
    }
    if (this.#state.current.stage === 'running') {
      const isEnded = known && known.current_state.stage !== 'running';
      await this.append(stateFact(isEnded ? known.current_state : { stage: 'interrupted' }, now.toISOString()));
    }
  }

  /** Whole files that the journal does not know, in their order. */
  #strays(names: string[]): { name: string; sequence: number; type: string }[] {
    const taken = new Set(this.#state.entities.map(({ sequence }) => sequence));
    return names
      .map((name) => ({ name, ...parseFilename(name) }))
      .filter(
        (file): file is { name: string; sequence: number; type: string } =>
          file.sequence !== undefined && file.sequence > 0 && !taken.has(file.sequence),
      )
      .sort((a, b) => a.sequence - b.sequence);
  }

  /** Cuts off what a failed write has left behind the good lines. */
  async #settle(): Promise<void> {
    if (this.#ragged) {
      await this.#journal.truncate(this.#length);
      await this.#journal.flush();
      this.#ragged = false;
    }
    for (let name = this.#doubtful.at(-1); name !== undefined; name = this.#doubtful.at(-1)) {
      await this.#store.remove(`${this.path}/${name}`);
      this.#doubtful.pop();
    }
  }

  /** Removes the file of an entity that could not be saved. Its number is free again only if it is certainly gone. */
  async #takeBack(name: string): Promise<void> {
    this.#doubtful.push(name);
    try {
      await this.#settle();
    } catch {
      this.#next += 1;
    }
  }

  /** Writes metadata.json. A failure harms nothing that was saved: the next change writes it, or recovery does. */
  async #describe(): Promise<void> {
    if (this.#behind) {
      await writeWhole(this.#store, this.path, METADATA, this.#metadata()).then(
        () => {
          this.#behind = false;
        },
        () => {},
      );
    }
  }

  #metadata(): Blob {
    return jsonBlob({ ...this.record, journal_length: this.#length });
  }
}

/** What a reader finds in a run's folder, without the run's lock. */
export interface Told {
  record: RunRecord;
  /** Bytes per file name; null for the older layout, which does not say. */
  lengths: Map<string, number> | null;
  /** Bytes of the journal's good lines. */
  journalLength: number;
  /** The journal does not end with a good line, or what it names is missing: recovery is due, unless the run is being written. */
  isDamaged: boolean;
}

/** Null when there is no such run, or it was deleted. Files that are not there are left out and named as lost. */
export async function readFolder(store: FileStore, path: string): Promise<Told | null> {
  const names = await filesIn(store, path);
  const told = await readJournal(store, path);
  if (told === 'deleted') {
    return null;
  }
  if (told) {
    return { ...told, record: withoutLost(told.record, (name) => names.includes(name)) };
  }
  const text = await (await store.read(`${path}/${METADATA}`))?.text();
  const described = text === undefined ? null : parseRecord(text);
  if (!described && !names.some(parseFilename)) {
    return null;
  }
  const record: Described = described ?? rebuilt(path, names);
  delete record.journal_length;
  return {
    record: { ...record, entities: record.entities.filter(({ filename }) => names.includes(filename)) },
    lengths: null,
    journalLength: 0,
    isDamaged: names.includes(JOURNAL),
  };
}

async function readJournal(store: FileStore, path: string): Promise<Told | 'deleted' | null> {
  const file = await store.read(`${path}/${JOURNAL}`);
  // One that is being written in another tab may change under the reader; metadata.json is as good then.
  const bytes = file && (await file.arrayBuffer().catch(() => null));
  if (!bytes) {
    return null;
  }
  const { values, length } = decodeLines(new Uint8Array(bytes));
  const state = runState(values);
  if (!state) {
    return null;
  }
  return state.deleted
    ? 'deleted'
    : {
        record: recordOf(state),
        lengths: new Map(state.entities.map((entity) => [entity.filename, entity.length])),
        journalLength: length,
        isDamaged: length < bytes.byteLength,
      };
}

/** Whether metadata.json says what the journal says. */
export async function isDescribed(store: FileStore, path: string, { journalLength }: Told): Promise<boolean> {
  const text = await (await store.read(`${path}/${METADATA}`))?.text();
  return text !== undefined && parseRecord(text)?.journal_length === journalLength;
}

/** The record with the files that are not as they were saved named apart. */
export function withoutLost(record: RunRecord, isThere: (filename: string) => boolean): RunRecord {
  const lost = record.entities.filter(({ filename }) => !isThere(filename)).map(({ filename }) => filename);
  const entities = record.entities.filter(({ filename }) => !lost.includes(filename));
  return lost.length > 0 ? { ...record, entities, lost } : record;
}

export async function filesIn(store: FileStore, path: string): Promise<string[]> {
  return (await store.list(path)).filter(({ kind }) => kind === 'file').map(({ name }) => name);
}

/** The journal that a folder of the older layout would have. */
async function olderFacts(
  store: FileStore,
  path: string,
  described: Described | null,
  names: string[],
): Promise<Fact[]> {
  const record = described ?? rebuilt(path, names);
  const lengths = new Map<string, number>();
  const entities = [];
  for (const entity of record.entities) {
    const blob = await store.read(`${path}/${entity.filename}`);
    if (blob) {
      lengths.set(entity.filename, blob.size);
      entities.push({ ...entity, sha256: entity.sha256 || (await sha256(blob)) });
    }
  }
  return factsOf({ ...record, entities }, lengths);
}

function rebuilt(path: string, names: string[]): RunRecord {
  const [device, run] = path.split('/').slice(-2);
  return rebuildRecord(run, device, names);
}
