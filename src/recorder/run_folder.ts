/**
 * One run's folder and the protocol for writing it: write the entity's file under an ignored name, move it to its own name, append a line
 * to the journal, flush; only then is it saved. `metadata.json` is derived from the journal and lags behind until the run ends or is recovered. Whoever
 * creates or opens a RunFolder holds the run's lock.
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
  /** The next entity's number. Numbers that may be taken on disk are not reused. */
  #next: number;
  /** Whether there may be bytes after the good lines, which must be removed before the next line. */
  #ragged: boolean;
  /** Files to remove once their lines are rolled back. */
  readonly #doubtful: string[] = [];
  /** Whether metadata.json differs from the journal. */
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
    // All of the first lines or none: a part would be taken for the truth.
    await writeWhole(store, path, JOURNAL, new Blob(encodeLines(facts)));
    const folder = await RunFolder.#load(store, path);
    if (!folder) {
      throw new StudioError('storage_unavailable', 'The browser did not keep what was written; reload the page.', {
        retry: 'same',
      });
    }
    return folder;
  }

  /**
   * Opens the folder and repairs whatever happened to it: the journal ends with its last good line, leftovers are removed, whole files
   * without a line get one, a running run becomes interrupted, and metadata.json matches the journal. This is idempotent and may itself be
   * interrupted anywhere. A folder of the older layout gets a journal. Null if there was nothing to keep, in which case the folder is
   * removed.
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
      await folder.describe();
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

  /** False if metadata.json could not be written yet. */
  get isDescribed(): boolean {
    return !this.#behind;
  }

  /**
   * Resolves once the entity is saved. If it rejects, nothing was saved and the folder is still writable.
   * @param then facts that hold once it is, written with its line
   */
  async save(
    type: string,
    { bytes, extension }: EntityFile,
    timestamp: string,
    metadata: Saved['metadata'],
    then: readonly Fact[] = [],
  ) {
    const sequence = this.#next;
    const name = filename(sequence, type, extension);
    const file = { sequence, type, filename: name, length: bytes.length };
    // Beside the writing.
    const hash = sha256(bytes);
    hash.catch(() => {});
    try {
      await writeWhole(this.#store, this.path, name, bytes);
      const saved: Saved = { record: 'entity', ...file, sha256: await hash, timestamp, metadata };
      await this.append(saved, ...then);
      this.#next = sequence + 1;
      return saved;
    } catch (error) {
      await this.#takeBack(name);
      throw error;
    }
  }

  /** Saves an entity under its existing number, otherwise like {@link save}. The caller has verified its hash. */
  async keep({ sequence, type, filename: name, sha256: hash, timestamp, metadata }: RunEntity, blob: Blob) {
    const file = { sequence, type, filename: name, length: blob.size, sha256: hash };
    await writeWhole(this.#store, this.path, name, blob);
    await this.append({ record: 'entity', ...file, timestamp, metadata });
    this.#next = Math.max(this.#next, sequence + 1);
  }

  /** Ends, reopens or stars the run. */
  async say(fact: Fact): Promise<void> {
    await this.append(fact);
    await this.describe();
  }

  /** Appends a line per fact to the journal; resolves once they are on disk. What is torn between them keeps the first ones. */
  async append(...facts: Fact[]): Promise<void> {
    await this.#settle();
    let [length, checksum] = [this.#length, this.#checksum];
    this.#ragged = true;
    try {
      for (const fact of facts) {
        const line = encodeLine(fact, checksum);
        await this.#journal.write(line.bytes, length);
        length += line.bytes.length;
        ({ checksum } = line);
      }
      await this.#journal.flush();
    } catch (error) {
      await this.#settle().catch(() => {});
      throw error;
    }
    this.#ragged = false;
    this.#length = length;
    this.#checksum = checksum;
    facts.forEach((fact) => {
      add(this.#state, fact);
    });
    this.#behind = true;
  }

  /** Removes the run. The journal goes last, so that an interrupted removal is recognised and completed. */
  async delete(): Promise<void> {
    if (!this.#state.deleted) {
      // A full disk has no room for the line, but removing must still be possible.
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
    // metadata.json can only know more than the journal if the latter was damaged from outside.
    const known = (described?.journal_length ?? 0) > this.#length ? described : null;
    await this.#settle();
    for (const name of names.filter(isLeftover)) {
      await this.#store.remove(`${this.path}/${name}`);
    }
    for (const { name, sequence, type } of this.#strays(names)) {
      // It is moved to its name only after it was written and closed, so it is whole.
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

  /** Whole files missing from the journal, in order. */
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

  /** Truncates what a failed write left after the good lines. */
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

  /** Removes the file of an entity that could not be saved. Its number is only reused if the file is certainly gone. */
  async #takeBack(name: string): Promise<void> {
    this.#doubtful.push(name);
    try {
      await this.#settle();
    } catch {
      this.#next += 1;
    }
  }

  /**
   * Brings metadata.json up to date: when the run ends, and for those who read it before, as each write delays what is saved next. A failure
   * does no harm: the next change or recovery writes it.
   */
  async describe(): Promise<void> {
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
    return describing(this.record, this.#length);
  }
}

/** A run's folder as read without the run's lock. */
export interface Told {
  record: RunRecord;
  /** Sizes by file name; null for the older layout, which does not record them. */
  lengths: Map<string, number> | null;
  /** Bytes of the journal's good lines. */
  journalLength: number;
  /** The job that opened it, if one did. */
  job?: string;
  /** Whether the journal does not end with a good line, or a file is missing: recovery is due, unless the run is being written. */
  isDamaged: boolean;
}

function describing(record: RunRecord, journal_length: number): Blob {
  return jsonBlob({ ...record, journal_length });
}

/**
 * `metadata.json` as it will be: while another tab writes the run, the file is behind the journal. Where the file knows more, or there is no
 * journal that can be read, the file; null without either.
 */
export async function readMetadata(store: FileStore, path: string): Promise<Blob | null> {
  const file = await store.read(`${path}/${METADATA}`);
  // That a later version wrote it is no reason to withhold the file.
  const told = await readJournal(store, path).catch(() => null);
  if (!told || told === 'deleted') {
    return file;
  }
  const described = file && parseRecord(await file.text());
  return (described?.journal_length ?? 0) >= told.journalLength ? file : describing(told.record, told.journalLength);
}

/** Null if there is no such run, or it was deleted. Missing files are left out and listed as lost. */
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
  // A run being written in another tab may change while it is read; metadata.json will do then.
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
        job: state.opened.job,
        isDamaged: length < bytes.byteLength,
      };
}

/** Whether metadata.json says what the journal says. */
export async function isDescribed(store: FileStore, path: string, { journalLength }: Told): Promise<boolean> {
  const text = await (await store.read(`${path}/${METADATA}`))?.text();
  return text !== undefined && parseRecord(text)?.journal_length === journalLength;
}

/** The record, with missing and damaged files listed separately. */
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
