/**
 * Recordings: one folder per run, in it one numbered file per entity, the journal that says what was saved, and a
 * `metadata.json` derived from it. Nothing is reported as saved before it is, and what was saved stays whole whatever
 * fails later. Several recorders may share the files, one per tab: a run is written by the one that holds its lock.
 */
import { StudioError, assert } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { Entity } from '../core/job.ts';
import type { Retention, RunEnd, RunOpening, RunQuery, RunRecord, RunSummary } from '../../workers/protocol.ts';
import { ENTITY_TYPE, mediaType, parseFilename, throughJson, toFile } from './entity_file.ts';
import type { FileStore } from './file_store.ts';
import { JOURNAL, SCHEMA_VERSION, entityOf, stateFact } from './journal.ts';
import { MemoryLocks } from './locks.ts';
import type { Locks } from './locks.ts';
import { outdated, parseRetention, readRetention, writeRetention } from './retention.ts';
import { RunFolder, filesIn, isDescribed, readFolder, withoutLost } from './run_folder.ts';
import type { Told } from './run_folder.ts';
import { LOCK, RunIndex, indexEntry, summary } from './run_index.ts';
import type { IndexEntry } from './run_index.ts';
import { METADATA, isRunId, withoutPictures } from './run_record.ts';
import { hex, sha256 } from './whole_file.ts';

const ROOT = 'exports/json';
const DEVICE_ID = 'device_id.txt';
/** Runs that recovery looks at before it writes down what it found. */
const RECOVERED_AT_ONCE = 100;

/** A tab that was closed lets go of its runs within a moment, and others hold them only for one to look at them. */
const PATIENCE_MS = 2000;

export interface Surroundings {
  /** Shared by all recorders of the same files. */
  locks?: Locks;
  /** For {@link Recorder.saveFromUrl}. */
  fetch?: (url: string) => Promise<Response>;
}

interface OpenRun {
  readonly folder: RunFolder;
  readonly release: () => void;
  /** What is going on; changes of one run follow one another. */
  last: Promise<unknown>;
  /** How it ended, when that could not be written. */
  ending: RunRecord['current_state'] | null;
}

export class Recorder {
  readonly #store: FileStore;
  readonly #now: () => Date;
  readonly #locks: Locks;
  readonly #fetch: (url: string) => Promise<Response>;
  readonly #index: RunIndex;
  readonly #open = new Map<string, OpenRun>();
  /** Files whose hash was compared since the start, as `run/filename`. */
  readonly #verified = new Set<string>();
  #deviceId: Promise<string> | null = null;
  #recovered: Promise<void> | null = null;

  constructor(store: FileStore, now: () => Date = () => new Date(), surroundings: Surroundings = {}) {
    this.#store = store;
    this.#now = now;
    this.#locks = surroundings.locks ?? new MemoryLocks();
    this.#fetch = surroundings.fetch ?? ((url) => fetch(url));
    this.#index = new RunIndex(store, this.#locks);
  }

  /**
   * Takes up what earlier visits left, once: makes the index agree with the folders, and recovers the runs that nobody
   * is writing and that had not ended. Listing waits for it, recording does not.
   */
  recover(): Promise<void> {
    this.#recovered ??= guarded(() => this.#recover());
    this.#recovered.catch(() => {
      this.#recovered = null;
    });
    return this.#recovered;
  }

  async openRun(opening: RunOpening): Promise<string> {
    await this.#endPending();
    return guarded(async () => {
      const now = this.#now();
      const run = `run_${now.getTime()}_${hex(crypto.getRandomValues(new Uint8Array(3)))}`;
      const device_id = await this.#device();
      const path = `${ROOT}/${localDay(now)}/${device_id}/${run}`;
      const release = await this.#lock(run);
      try {
        const folder = await RunFolder.create(this.#store, path, [
          {
            record: 'run',
            schema_version: SCHEMA_VERSION,
            run_id: run,
            timestamp: now.toISOString(),
            device_id,
            config_name: opening.config_name,
            operation: throughJson(withoutPictures(opening.operation)),
            expected_outputs: opening.expected_outputs,
          },
        ]);
        await this.#keepOpen(run, folder, release);
      } catch (error) {
        await this.#store.remove(path).catch(() => {});
        release();
        throw error;
      }
      return run;
    });
  }

  async resumeRun(run: string): Promise<RunRecord> {
    return guarded(async () => {
      const open = this.#open.get(run);
      if (open) {
        return open.folder.record;
      }
      const { folder, release } = await this.#take(run);
      try {
        await folder.say(stateFact({ stage: 'running' }, this.#now().toISOString()));
      } catch (error) {
        await folder.close();
        release();
        throw error;
      }
      await this.#keepOpen(run, folder, release);
      return folder.record;
    });
  }

  /** Numbers the entity and writes it; resolves when it is saved (see {@link RunFolder}). */
  async saveEntity(
    run: string,
    entityType: string,
    content: Blob | string | object,
    metadata: Record<string, unknown> = {},
  ): Promise<Entity> {
    assert(ENTITY_TYPE.test(entityType), `"${entityType}" is an entity type like "output_image"`);
    return this.#inTurn(run, async ({ folder }) => {
      const file = await toFile(content, metadata.format);
      const saved = await folder.save(entityType, file, this.#now().toISOString(), throughJson(metadata));
      const entity = entityOf(saved);
      this.#verified.add(`${run}/${entity.filename}`);
      return { run, ...entity };
    });
  }

  async saveFromBlob(run: string, entityType: string, blob: Blob, metadata?: Record<string, unknown>): Promise<Entity> {
    if (!(blob instanceof Blob)) {
      throw new StudioError('invalid_operation', `The ${entityType} to save must be a Blob.`);
    }
    return this.saveEntity(run, entityType, blob, metadata);
  }

  async saveFromUrl(
    run: string,
    entityType: string,
    url: string,
    metadata: Record<string, unknown> = {},
  ): Promise<Entity> {
    const address = URL.canParse(url) ? new URL(url) : null;
    if (!address || !['blob:', 'data:', 'http:', 'https:'].includes(address.protocol)) {
      throw new StudioError(
        'invalid_operation',
        'The URL to save from must be a blob:, data:, http: or https: address.',
      );
    }
    // A query may hold somebody's key.
    const source = address.protocol.startsWith('http') ? { source: `${address.origin}${address.pathname}` } : {};
    return this.saveEntity(run, entityType, await this.#fetched(url), { ...source, ...metadata });
  }

  async closeRun(run: string, stage: RunEnd, error?: StudioErrorData): Promise<void> {
    const ending = { stage, ...(error ? { error } : {}) };
    await this.#inTurn(run, (open) => this.#end(run, open, ending));
    await this.#discardOutdated().catch(() => {
      // The run has ended all the same; they are looked at again after the next one.
    });
  }

  async listRuns(query: RunQuery): Promise<RunRecord[]> {
    return guarded(async () => {
      await this.#upToDate();
      const found: RunRecord[] = [];
      const entries = this.#index.select(query);
      for (let page = take(entries, query.limit); page.length > 0; page = take(entries, query.limit - found.length)) {
        const records = await Promise.all(page.map((entry) => this.#listed(entry)));
        found.push(...records.filter((record) => record !== null));
      }
      return found;
    });
  }

  async findRuns(query: RunQuery): Promise<RunSummary[]> {
    return guarded(async () => {
      await this.#upToDate();
      return take(this.#index.select(query), query.limit).map((entry) => {
        const open = this.#open.get(entry.run_id);
        return summary(open ? entryOf(open.folder) : entry);
      });
    });
  }

  /** Files that are no longer there, or have another length, are named as lost. */
  async readRun(run: string): Promise<RunRecord> {
    return guarded(async () => {
      const open = this.#open.get(run);
      if (open) {
        return open.folder.record;
      }
      const path = await this.#folder(run);
      const told = await this.#told(run, path, { withMetadata: true });
      if (!told) {
        throw noSuchRun(run);
      }
      const { record, lengths } = told;
      const sizes = new Map<string, number | undefined>();
      for (const { filename } of record.entities) {
        sizes.set(filename, (await this.#store.read(`${path}/${filename}`))?.size);
      }
      const lost = record.lost ?? [];
      const checked = withoutLost(record, (name) => lengths === null || lengths.get(name) === sizes.get(name));
      return lost.length > 0 ? { ...checked, lost: [...lost, ...(checked.lost ?? [])] } : checked;
    });
  }

  /** The hash of a file is compared when it is read for the first time. */
  async readEntity(run: string, name: string): Promise<Blob> {
    return guarded(async () => {
      const path = await this.#folder(run);
      // A path from outside must not lead out of the run's folder.
      const known = name === METADATA || parseFilename(name) !== null;
      const file = known ? await this.#store.read(`${path}/${name}`) : null;
      if (!file) {
        throw new StudioError('invalid_operation', `The run "${run}" has no file "${name}".`);
      }
      if (name !== METADATA && !this.#verified.has(`${run}/${name}`)) {
        await this.#verify(run, path, name, file);
      }
      return file.slice(0, file.size, mediaType(name));
    });
  }

  async starRun(run: string, starred: boolean): Promise<void> {
    await guarded(async () => {
      const open = this.#open.get(run);
      if (open) {
        await this.#inTurn(run, ({ folder }) => folder.say({ record: 'star', starred }));
        await this.#index.put(entryOf(open.folder));
        return;
      }
      const { folder, release } = await this.#take(run);
      try {
        if (folder.state.starred !== starred) {
          await folder.say({ record: 'star', starred });
        }
        await this.#index.put(entryOf(folder));
      } finally {
        await folder.close();
        release();
      }
    });
  }

  async deleteRun(run: string): Promise<void> {
    await guarded(async () => {
      const open = this.#open.get(run);
      if (!open) {
        const path = await this.#folder(run);
        const release = await this.#lock(run);
        try {
          await this.#delete(run, path);
        } finally {
          release();
        }
        return;
      }
      await this.#inTurn(run, async ({ folder, release }) => {
        this.#open.delete(run);
        try {
          await this.#index.put({ ...entryOf(folder), due: true });
          await folder.delete();
          await this.#index.drop(run);
        } finally {
          release();
        }
      });
    });
  }

  retention(): Promise<Retention> {
    return guarded(() => readRetention(this.#store));
  }

  async setRetention(retention: Retention): Promise<string[]> {
    const setting = parseRetention(retention);
    return guarded(async () => {
      await this.#locks.within(LOCK, () => writeRetention(this.#store, setting));
      return this.#discardOutdated();
    });
  }

  #inTurn<T>(run: string, work: (open: OpenRun) => Promise<T>): Promise<T> {
    const open = this.#open.get(run);
    assert(open, `the run "${run}" is open`);
    const result = open.last.then(() => {
      assert(this.#open.get(run) === open, `the run "${run}" is open`);
      return guarded(() => work(open));
    });
    open.last = result.catch(() => {});
    return result;
  }

  async #keepOpen(run: string, folder: RunFolder, release: () => void): Promise<void> {
    this.#open.set(run, { folder, release, last: Promise.resolve(), ending: null });
    await this.#index.put(entryOf(folder));
  }

  async #end(run: string, open: OpenRun, ending: RunRecord['current_state']): Promise<void> {
    open.ending = ending;
    await open.folder.say(stateFact(ending, this.#now().toISOString()));
    await this.#index.put(entryOf(open.folder));
    this.#open.delete(run);
    await open.folder.close();
    open.release();
  }

  /** Writes the ends of runs for which there was no room when they ended. */
  async #endPending(): Promise<void> {
    for (const [run, { ending }] of this.#open) {
      if (ending) {
        await this.#inTurn(run, (open) => this.#end(run, open, ending)).catch(() => {});
      }
    }
  }

  async #recover(): Promise<void> {
    await this.#index.open();
    const folders = await this.#folders();
    await this.#index.drop(...this.#index.runs.filter((run) => !folders.has(run) && !this.#open.has(run)));
    let found: IndexEntry[] = [];
    for (const [run, path] of folders) {
      const entry = this.#index.get(run);
      if (this.#open.has(run) || (entry && !entry.due && entry.stage !== 'running')) {
        continue;
      }
      // One that cannot be recovered now, as on a full disk, is listed as it is and looked at again later.
      const recovered = await this.#recoverRun(run, path).catch(() => this.#dueEntry(path).catch(() => null));
      if (recovered && JSON.stringify(recovered) !== JSON.stringify(entry)) {
        found.push(recovered);
      }
      if (found.length >= RECOVERED_AT_ONCE) {
        await this.#index.put(...found);
        found = [];
      }
    }
    await this.#index.put(...found);
  }

  /** What the index should say of the run; null when nothing is left of it. */
  async #recoverRun(run: string, path: string): Promise<IndexEntry | null> {
    const names = await filesIn(this.#store, path);
    if (!names.includes(JOURNAL) && (names.includes(METADATA) || names.some(parseFilename))) {
      // The older layout gets a journal when it is changed; until then nothing is written to it.
      return this.#olderEntry(path);
    }
    const release = await this.#locks.tryHold(lockOf(run));
    if (!release) {
      // Another tab writes it.
      return this.#dueEntry(path);
    }
    try {
      const folder = await RunFolder.recover(this.#store, path, this.#now());
      if (!folder) {
        await this.#index.drop(run);
        return null;
      }
      await folder.close();
      return entryOf(folder);
    } finally {
      release();
    }
  }

  async #dueEntry(path: string): Promise<IndexEntry | null> {
    const told = await readFolder(this.#store, path);
    return told && indexEntry(path, told.record, { bytes: bytesOf(told), due: true });
  }

  async #olderEntry(path: string): Promise<IndexEntry | null> {
    const told = await readFolder(this.#store, path);
    if (!told) {
      return null;
    }
    let bytes = 0;
    for (const { filename } of told.record.entities) {
      bytes += (await this.#store.read(`${path}/${filename}`))?.size ?? 0;
    }
    // A tab with an older version of the page may still be writing it, so its end is looked for again.
    const due = told.record.current_state.stage === 'running';
    return indexEntry(path, interrupted(told.record), { bytes, due });
  }

  /** Opens a run that has ended or was interrupted, to change it. */
  async #take(run: string): Promise<{ folder: RunFolder; release: () => void }> {
    const path = await this.#folder(run);
    const release = await this.#lock(run);
    try {
      // A change that is broken off is found at the next start.
      const entry = this.#index.get(run);
      await this.#index.put(...(entry ? [{ ...entry, due: true }] : []));
      const folder = await RunFolder.recover(this.#store, path, this.#now());
      if (!folder) {
        throw noSuchRun(run);
      }
      return { folder, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** The run's lock is held. */
  async #delete(run: string, path: string): Promise<void> {
    const entry = this.#index.get(run);
    if (entry) {
      await this.#index.put({ ...entry, due: true });
    }
    const names = await filesIn(this.#store, path);
    const folder = names.includes(JOURNAL) ? await RunFolder.recover(this.#store, path, this.#now()) : null;
    await (folder ? folder.delete() : this.#store.remove(path));
    await this.#index.drop(run);
  }

  async #discardOutdated(): Promise<string[]> {
    const retention = await readRetention(this.#store);
    if (retention.keep === 'all') {
      return [];
    }
    await this.#upToDate();
    const deleted: string[] = [];
    for (const { run_id, folder } of outdated(this.#index.select({}), retention)) {
      const release = this.#open.has(run_id) ? null : await this.#locks.tryHold(lockOf(run_id));
      if (release) {
        try {
          // The index may be behind another tab.
          const told = await readFolder(this.#store, folder);
          if (!told?.record.starred) {
            await this.#delete(run_id, folder);
            deleted.push(run_id);
          }
        } finally {
          release();
        }
      }
    }
    return deleted;
  }

  async #upToDate(): Promise<void> {
    await this.recover();
    await this.#index.refresh();
  }

  async #listed({ run_id, folder }: IndexEntry): Promise<RunRecord | null> {
    const open = this.#open.get(run_id);
    if (open) {
      return open.folder.record;
    }
    try {
      return (await this.#told(run_id, folder))?.record ?? null;
    } catch (error) {
      if (error instanceof StudioError) {
        // Of a later version: its neighbours can be listed all the same.
        return null;
      }
      throw error;
    }
  }

  /** What lies in the folder, recovered first where that is due and no tab writes it. */
  async #told(run: string, path: string, { withMetadata = false } = {}): Promise<Told | null> {
    const told = await readFolder(this.#store, path);
    if (!told) {
      return null;
    }
    if (!told.lengths && !told.isDamaged) {
      return { ...told, record: interrupted(told.record) };
    }
    const isDue =
      told.isDamaged ||
      told.record.current_state.stage === 'running' ||
      (withMetadata && !(await isDescribed(this.#store, path, told)));
    const release = isDue ? await this.#locks.tryHold(lockOf(run)) : null;
    if (!release) {
      return told;
    }
    try {
      const folder = await RunFolder.recover(this.#store, path, this.#now());
      await folder?.close();
      await (folder ? this.#index.put(entryOf(folder)) : this.#index.drop(run));
      return await readFolder(this.#store, path);
    } catch {
      // On a full disk it is read as it is.
      return { ...told, record: interrupted(told.record) };
    } finally {
      release();
    }
  }

  async #verify(run: string, path: string, name: string, file: Blob): Promise<void> {
    const record = this.#open.get(run)?.folder.record ?? (await readFolder(this.#store, path))?.record;
    const expected = record?.entities.find(({ filename }) => filename === name)?.sha256;
    if (expected && expected !== (await sha256(file))) {
      throw new StudioError(
        'storage_unavailable',
        `The file "${name}" of the run "${run}" is not what was saved: it was changed or damaged on the disk; delete the run, or make the picture again with its settings.`,
      );
    }
    this.#verified.add(`${run}/${name}`);
  }

  async #fetched(url: string): Promise<Blob> {
    let response: Response;
    try {
      response = await this.#fetch(url);
      if (response.ok) {
        return await response.blob();
      }
    } catch (cause) {
      throw new StudioError(
        'origin_unavailable',
        'What should be saved could not be fetched; check its address and the connection, then try again.',
        { retry: 'same', cause },
      );
    }
    throw new StudioError(
      'origin_unavailable',
      `What should be saved could not be fetched (the server answers ${response.status}); check its address.`,
    );
  }

  async #lock(run: string): Promise<() => void> {
    const release = await this.#locks.tryHold(lockOf(run), PATIENCE_MS);
    if (!release) {
      throw new StudioError(
        'storage_unavailable',
        'This run is open in another tab; wait until it has ended there, then try again.',
        { retry: 'same' },
      );
    }
    return release;
  }

  async #folder(run: string): Promise<string> {
    const folder = this.#open.get(run)?.folder.path ?? this.#index.get(run)?.folder ?? (await this.#folders()).get(run);
    if (!folder) {
      throw noSuchRun(run);
    }
    return folder;
  }

  async #folders(): Promise<Map<string, string>> {
    const found = new Map<string, string>();
    for (const day of await this.#subfolders(ROOT)) {
      for (const device of await this.#subfolders(day)) {
        for (const folder of await this.#subfolders(device)) {
          const run = folder.slice(folder.lastIndexOf('/') + 1);
          if (isRunId(run)) {
            found.set(run, folder);
          }
        }
      }
    }
    return found;
  }

  async #subfolders(path: string): Promise<string[]> {
    const entries = await this.#store.list(path);
    return entries.filter(({ kind }) => kind === 'folder').map(({ name }) => `${path}/${name}`);
  }

  #device(): Promise<string> {
    this.#deviceId ??= this.#readDevice();
    this.#deviceId.catch(() => {
      this.#deviceId = null;
    });
    return this.#deviceId;
  }

  async #readDevice(): Promise<string> {
    const kept = (await (await this.#store.read(DEVICE_ID))?.text())?.trim();
    if (kept !== undefined && /^[0-9a-f-]{36}$/.test(kept)) {
      return kept;
    }
    const id = crypto.randomUUID();
    await this.#store.write(DEVICE_ID, new Blob([id]));
    return id;
  }
}

/** What a storage throws, as the sentence that a person can act on. */
async function guarded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof StudioError) {
      throw error;
    }
    if (error instanceof DOMException && error.name === 'QuotaExceededError') {
      throw new StudioError(
        'storage_full',
        'The browser has no room left for recordings; delete some runs or free space on the disk, then try again. What is recorded so far is kept.',
        { retry: 'same', cause: error },
      );
    }
    throw new StudioError(
      'storage_unavailable',
      'The browser could not read or write the recordings; reload the page and try again. What is recorded so far is kept.',
      { retry: 'same', cause: error },
    );
  }
}

function entryOf(folder: RunFolder): IndexEntry {
  const bytes = folder.state.entities.reduce((sum, { length }) => sum + length, 0);
  return indexEntry(folder.path, folder.record, { bytes, due: !folder.isDescribed });
}

function bytesOf({ lengths }: Told): number {
  return [...(lengths?.values() ?? [])].reduce((sum, length) => sum + length, 0);
}

/** Nobody writes the older layout any more. */
function interrupted(record: RunRecord): RunRecord {
  return record.current_state.stage === 'running' ? { ...record, current_state: { stage: 'interrupted' } } : record;
}

function noSuchRun(run: string): StudioError {
  return new StudioError('invalid_operation', `There is no recorded run "${run}".`);
}

function lockOf(run: string): string {
  return `darkroom:run:${run}`;
}

function take<T>(from: Iterator<T, void>, count: number): T[] {
  const taken: T[] = [];
  while (taken.length < count) {
    const next = from.next();
    if (next.done) {
      break;
    }
    taken.push(next.value);
  }
  return taken;
}

/** The day as the person's own calendar has it. */
function localDay(date: Date): string {
  const part = (value: number) => String(value).padStart(2, '0');
  return `${date.getFullYear()}-${part(date.getMonth() + 1)}-${part(date.getDate())}`;
}
