/**
 * Recordings: one folder per run, with one numbered file per entity, a journal of what was saved, and a `metadata.json` derived from it.
 * Nothing is reported as saved before it is, and what was saved stays whole whatever fails later. Several recorders, one per tab, may share
 * the files: only the holder of a run's lock writes to it.
 */
import { StudioError, assert } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { Entity } from '../core/job.ts';
import { withoutPictures } from '../core/operation.ts';
import type { LostRun, Retention, RunEnd, RunOpening, RunQuery, RunRecord, RunSummary } from './recorder_api.ts';
import { mimeOf } from '../media/registry.ts';
import { toFile } from './entity_content.ts';
import { ENTITY_TYPE, parseFilename, throughJson } from './entity_file.ts';
import type { FileStore } from './file_store.ts';
import { JOURNAL, SCHEMA_VERSION, entityOf, stateFact } from './journal.ts';
import { MemoryLocks } from './locks.ts';
import type { Locks } from './locks.ts';
import { outdated, parseRetention, readRetention, writeRetention } from './retention.ts';
import { RunFolder, filesIn, readFolder } from './run_folder.ts';
import { readRunFolder, writeRun } from './run_import.ts';
import type { ImportedFile } from './run_import.ts';
import { LOCK, summary } from './run_index.ts';
import type { IndexEntry, Memory } from './run_index.ts';
import { RunList, entryOf, folderFor, lockOf } from './run_list.ts';
import { METADATA } from './run_record.ts';
import { guarded, noSuchRun } from './storage_refusal.ts';
import { hex, sha256 } from './whole_file.ts';

const DEVICE_ID = 'device_id.txt';

/** A closed tab quickly releases its runs, and others only hold them briefly. */
const PATIENCE_MS = 2000;

export interface Surroundings {
  /** Shared by all recorders of the same files. */
  locks?: Locks;
  /** For {@link Recorder.saveFromUrl}. */
  fetch?: (url: string) => Promise<Response>;
  /** False if some files are currently unreachable, so that invisible runs are not taken for lost. */
  isWhole?: boolean;
  /** Makes a small data: URL from a picture; rejects if it is none. */
  thumbnail?: (picture: Blob) => Promise<string>;
}

interface OpenRun {
  readonly folder: RunFolder;
  readonly release: () => void;
  /** Pending work; changes of one run are serialised. */
  last: Promise<unknown>;
  /** Its outcome, if that could not be written. */
  ending: RunRecord['current_state'] | null;
}

export class Recorder {
  readonly #store: FileStore;
  readonly #now: () => Date;
  readonly #locks: Locks;
  readonly #fetch: (url: string) => Promise<Response>;
  readonly #thumbnail: Surroundings['thumbnail'];
  readonly #list: RunList;
  readonly #open = new Map<string, OpenRun>();
  /** Files whose hash was verified since the start, as `run/filename`. */
  readonly #verified = new Set<string>();
  #deviceId: Promise<string> | null = null;

  constructor(store: FileStore, now: () => Date = () => new Date(), surroundings: Surroundings = {}) {
    this.#store = store;
    this.#now = now;
    this.#locks = surroundings.locks ?? new MemoryLocks();
    this.#fetch = surroundings.fetch ?? ((url) => fetch(url));
    this.#thumbnail = surroundings.thumbnail;
    const { isWhole = true } = surroundings;
    this.#list = new RunList(store, { locks: this.#locks, now, isWhole }, (run) => this.#open.get(run)?.folder);
  }

  /** Recovers what earlier visits left (see {@link RunList}). Listing waits for it, recording does not. */
  recover(): Promise<void> {
    return this.#list.recover();
  }

  async openRun(opening: RunOpening): Promise<string> {
    await this.#endPending();
    return guarded(async () => {
      const now = this.#now();
      const run = `run_${now.getTime()}_${hex(crypto.getRandomValues(new Uint8Array(3)))}`;
      const device_id = await this.#device();
      const path = folderFor(run, device_id);
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
            operation: opening.operation && throughJson(withoutPictures(opening.operation)),
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
      if (this.#open.has(run)) {
        // Its last writer may have died in the middle of an entity, which is recovered first.
        return this.#inTurn(run, ({ folder }) => Promise.resolve(folder.record));
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

  /** Numbers and writes the entity; resolves once it is saved (see {@link RunFolder}). */
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
    // A query string may contain a key.
    const source = address.protocol.startsWith('http') ? { source: `${address.origin}${address.pathname}` } : {};
    return this.saveEntity(run, entityType, await this.#fetched(url), { ...source, ...metadata });
  }

  async closeRun(run: string, stage: RunEnd, error?: StudioErrorData): Promise<void> {
    const ending = { stage, ...(error ? { error } : {}) };
    await this.#inTurn(run, (open) => this.#end(run, open, ending));
    await this.#discardOutdated().catch(() => {
      // The run has ended anyway; they are checked again after the next one.
    });
  }

  listRuns(query: RunQuery): Promise<RunRecord[]> {
    return guarded(() => this.#list.list(query));
  }

  findRuns(query: RunQuery): Promise<RunSummary[]> {
    return guarded(() => this.#list.find(query));
  }

  /** Runs that the browser has lost, newest first. */
  lostRuns(): Promise<LostRun[]> {
    return guarded(async () => {
      await this.#list.upToDate();
      return this.#list.index.lost().map(({ entry, memory }) => ({
        ...summary(entry),
        operation: (memory.operation ?? null) as LostRun['operation'],
        thumbnail: memory.thumbnail ?? null,
      }));
    });
  }

  /** Removes lost runs from their list: they were made again, or nobody wants them. */
  forgetLost(runs: string[]): Promise<void> {
    return guarded(async () => {
      await this.#list.upToDate();
      await this.#list.index.drop(...runs.filter((run) => this.#list.index.get(run)?.lost));
    });
  }

  readRun(run: string): Promise<RunRecord> {
    return guarded(() => this.#list.read(run));
  }

  /** A file's hash is verified on first read. */
  async readEntity(run: string, name: string): Promise<Blob> {
    return guarded(async () => {
      const path = await this.#list.folder(run);
      if (name === METADATA && this.#open.has(run)) {
        await this.#inTurn(run, ({ folder }) => folder.describe());
      }
      // An untrusted path must not leave the run's folder.
      const known = name === METADATA || parseFilename(name) !== null;
      const file = known ? await this.#store.read(`${path}/${name}`) : null;
      if (!file) {
        throw new StudioError('invalid_operation', `The run "${run}" has no file "${name}".`);
      }
      if (name !== METADATA && !this.#verified.has(`${run}/${name}`)) {
        await this.#verify(run, path, name, file);
      }
      return file.slice(0, file.size, mimeOf(name));
    });
  }

  async starRun(run: string, starred: boolean): Promise<void> {
    await guarded(async () => {
      const open = this.#open.get(run);
      if (open) {
        await this.#inTurn(run, ({ folder }) => folder.say({ record: 'star', starred }));
        await this.#list.index.put(entryOf(open.folder));
        return;
      }
      const { folder, release } = await this.#take(run);
      try {
        if (folder.state.starred !== starred) {
          await folder.say({ record: 'star', starred });
        }
        await this.#list.index.put(entryOf(folder));
      } finally {
        await folder.close();
        release();
      }
    });
  }

  /**
   * Imports what {@link readRunFolder} accepts, under its own id and numbers. Leaves nothing behind if it cannot be written.
   * @throws StudioError `invalid_operation`, also for a run that already exists
   */
  async importRun(files: ImportedFile[]): Promise<RunRecord> {
    return guarded(async () => {
      const imported = await readRunFolder(files);
      const { record } = imported;
      const run = record.run_id;
      await this.#list.upToDate();
      const release = await this.#lock(run);
      try {
        if (await this.#list.has(run)) {
          throw new StudioError('invalid_operation', `The run "${run}" is recorded here already.`);
        }
        const folder = await writeRun(this.#store, folderFor(run, record.device_id), imported);
        await folder.close();
        await this.#list.index.put(entryOf(folder));
        return folder.record;
      } finally {
        release();
      }
    });
  }

  async deleteRun(run: string): Promise<void> {
    await guarded(async () => {
      const open = this.#open.get(run);
      if (!open) {
        const path = await this.#list.folder(run);
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
          await this.#list.index.put({ ...entryOf(folder), due: true, leaving: true });
          await folder.delete();
          await this.#list.index.drop(run);
        } finally {
          release();
        }
      });
    });
  }

  retention(): Promise<Retention> {
    return guarded(() => readRetention(this.#store));
  }

  /** What {@link setRetention} would delete now, newest first. */
  async outdatedRuns(retention: Retention): Promise<RunSummary[]> {
    const setting = parseRetention(retention);
    return guarded(async () => {
      await this.#list.upToDate();
      return outdated(this.#list.index.select({}), setting).map(summary);
    });
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
    const operation = folder.record.operation as Memory['operation'];
    await this.#list.index.remember(run, { operation }, entryOf(folder));
  }

  async #end(run: string, open: OpenRun, ending: RunRecord['current_state']): Promise<void> {
    open.ending = ending;
    await open.folder.say(stateFact(ending, this.#now().toISOString()));
    await this.#list.index.put(entryOf(open.folder));
    this.#open.delete(run);
    await open.folder.close();
    open.release();
    void this.#sketch(entryOf(open.folder));
  }

  /** Remembers a thumbnail of the run. Nobody waits for it, and it may be missing. */
  async #sketch({ run_id, folder, picture: name }: IndexEntry): Promise<void> {
    const picture = name === '' ? null : await this.#store.read(`${folder}/${name}`).catch(() => null);
    if (picture && this.#thumbnail) {
      const thumbnail = await this.#thumbnail(picture).catch(() => null);
      if (thumbnail !== null) {
        await this.#list.index.remember(run_id, { thumbnail });
      }
    }
  }

  /** Writes outcomes for which there was no space when the runs ended. */
  async #endPending(): Promise<void> {
    for (const [run, { ending }] of this.#open) {
      if (ending) {
        await this.#inTurn(run, (open) => this.#end(run, open, ending)).catch(() => {});
      }
    }
  }

  /** Opens an ended or interrupted run to change it. */
  async #take(run: string): Promise<{ folder: RunFolder; release: () => void }> {
    const path = await this.#list.folder(run);
    const release = await this.#lock(run);
    try {
      // An interrupted change is found at the next start.
      const entry = this.#list.index.get(run);
      await this.#list.index.put(...(entry ? [{ ...entry, due: true }] : []));
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
    // Without this mark, an interrupted deletion would look like a loss.
    await this.#list.index.refresh();
    const entry = this.#list.index.get(run);
    if (entry) {
      await this.#list.index.put({ ...entry, due: true, leaving: true });
    }
    const names = await filesIn(this.#store, path);
    const folder = names.includes(JOURNAL) ? await RunFolder.recover(this.#store, path, this.#now()) : null;
    await (folder ? folder.delete() : this.#store.remove(path));
    await this.#list.index.drop(run);
  }

  async #discardOutdated(): Promise<string[]> {
    const retention = await readRetention(this.#store);
    if (retention.keep === 'all') {
      return [];
    }
    await this.#list.upToDate();
    const deleted: string[] = [];
    for (const { run_id, folder } of outdated(this.#list.index.select({}), retention)) {
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

  async #verify(run: string, path: string, name: string, file: Blob): Promise<void> {
    const record = this.#open.get(run)?.folder.record ?? (await readFolder(this.#store, path))?.record;
    const expected = record?.entities.find(({ filename }) => filename === name)?.sha256;
    if (expected && expected !== (await sha256(file))) {
      throw new StudioError(
        'storage_unavailable',
        `The file "${name}" of the run "${run}" is not what was saved: it was changed or damaged on the disk; delete the run, or make it again with its settings.`,
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
