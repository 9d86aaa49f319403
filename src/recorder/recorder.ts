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
import { DeviceId } from './device_id.ts';
import { fetched } from './fetched.ts';
import { JOURNAL, SCHEMA_VERSION, entityOf, stateFact } from './journal.ts';
import { MemoryLocks } from './locks.ts';
import type { Locks } from './locks.ts';
import { OpenRuns } from './open_runs.ts';
import type { OpenRun } from './open_runs.ts';
import { outdated, parseRetention, readRetention, writeRetention } from './retention.ts';
import { RunFolder, filesIn, readFolder, readMetadata } from './run_folder.ts';
import { readRunFolder, writeRun } from './run_import.ts';
import type { ImportedFile } from './run_import.ts';
import { LOCK, summary } from './run_index.ts';
import type { IndexEntry, Memory } from './run_index.ts';
import { RunList, entryOf, folderFor, lockOf } from './run_list.ts';
import { METADATA } from './run_record.ts';
import { guarded, noSuchRun } from './storage_refusal.ts';
import { hex, sha256 } from './whole_file.ts';

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

export class Recorder {
  readonly #store: FileStore;
  readonly #now: () => Date;
  readonly #locks: Locks;
  readonly #fetch: (url: string) => Promise<Response>;
  readonly #thumbnail: Surroundings['thumbnail'];
  readonly #list: RunList;
  readonly #device: DeviceId;
  readonly #runs = new OpenRuns();
  /** Runs that are being opened. */
  #opening = Promise.resolve();
  /** Files whose hash was verified since the start, as `run/filename`. */
  readonly #verified = new Set<string>();

  constructor(store: FileStore, now: () => Date = () => new Date(), surroundings: Surroundings = {}) {
    this.#store = store;
    this.#now = now;
    this.#locks = surroundings.locks ?? new MemoryLocks();
    this.#fetch = surroundings.fetch ?? ((url) => fetch(url));
    this.#thumbnail = surroundings.thumbnail;
    const { isWhole = true } = surroundings;
    this.#device = new DeviceId(store);
    this.#list = new RunList(store, { locks: this.#locks, now, isWhole }, (run) => this.#runs.folder(run));
  }

  /** Recovers what earlier visits left (see {@link RunList}). Listing waits for it, recording does not. */
  recover(): Promise<void> {
    return this.#list.recover();
  }

  openRun(opening: RunOpening): Promise<string> {
    const opened = this.#openRun(opening);
    this.#opening = Promise.allSettled([this.#opening, opened]).then(() => undefined);
    return opened;
  }

  /** @param since when the job was submitted, in milliseconds since 1970 */
  runOf(job: string, since: number): Promise<string | null> {
    return guarded(async () => {
      // Whoever asked for it may have died meanwhile.
      await this.#opening;
      return this.#list.runOf(job, since);
    });
  }

  async #openRun(opening: RunOpening): Promise<string> {
    await this.#endPending();
    return guarded(async () => {
      const now = this.#now();
      const run = `run_${now.getTime()}_${hex(crypto.getRandomValues(new Uint8Array(3)))}`;
      const device_id = await this.#device.get();
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
            ...(opening.job === undefined ? {} : { job: opening.job }),
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
      await this.#runs.settled(run);
      if (this.#runs.has(run)) {
        // Its last writer may have died in the middle of an entity, which is recovered first.
        return this.#runs.inTurn(run, ({ folder }) => Promise.resolve(folder.record));
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
    return this.#saveEntity(run, entityType, content, metadata, false);
  }

  saveLast(
    run: string,
    entityType: string,
    content: Blob | string | object,
    metadata: Record<string, unknown> = {},
  ): Promise<Entity> {
    return this.#saveEntity(run, entityType, content, metadata, true);
  }

  async #saveEntity(
    run: string,
    entityType: string,
    content: Blob | string | object,
    metadata: Record<string, unknown>,
    isLast: boolean,
  ): Promise<Entity> {
    assert(ENTITY_TYPE.test(entityType), `"${entityType}" is an entity type like "output_image"`);
    return this.#runs.inTurn(run, async (open) => {
      const { folder } = open;
      const file = await toFile(content, metadata.format);
      const now = this.#now().toISOString();
      const then = isLast ? [stateFact({ stage: 'completed' }, now)] : [];
      const saved = await folder.save(entityType, file, now, throughJson(metadata), then);
      const entity = entityOf(saved);
      this.#verified.add(`${run}/${entity.filename}`);
      if (isLast) {
        this.#leave(run, open);
      }
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
    const { source, blob } = await fetched(url, this.#fetch);
    return this.saveEntity(run, entityType, blob, { ...(source === null ? {} : { source }), ...metadata });
  }

  /** Resolves once the end is in the journal; see {@link settled} for what follows from it. */
  async closeRun(run: string, stage: RunEnd, error?: StudioErrorData): Promise<void> {
    const ending = { stage, ...(error ? { error } : {}) };
    await this.#runs.inTurn(run, (open) => this.#end(run, open, ending));
  }

  /** Resolves when every run that has ended is described on the disk and in the index, and what is not kept any more is gone. */
  settled(): Promise<void> {
    return this.#runs.settled();
  }

  listRuns(query: RunQuery): Promise<RunRecord[]> {
    return this.#settledList(() => this.#list.list(query));
  }

  findRuns(query: RunQuery): Promise<RunSummary[]> {
    return this.#settledList(() => this.#list.find(query));
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
      if (name === METADATA) {
        await this.#runs.settled(run);
        await (this.#runs.has(run) && this.#runs.inTurn(run, ({ folder }) => folder.describe()));
      }
      const file = await this.#read(path, name);
      if (!file) {
        throw new StudioError('invalid_operation', `The run "${run}" has no file "${name}".`);
      }
      if (name !== METADATA && !this.#verified.has(`${run}/${name}`)) {
        await this.#verify(run, path, name, file);
      }
      return file.slice(0, file.size, mimeOf(name));
    });
  }

  #read(path: string, name: string): Promise<Blob | null> {
    if (name === METADATA) {
      return readMetadata(this.#store, path);
    }
    // An untrusted path must not leave the run's folder.
    return parseFilename(name) === null ? Promise.resolve(null) : this.#store.read(`${path}/${name}`);
  }

  async starRun(run: string, starred: boolean): Promise<void> {
    await guarded(async () => {
      await this.#runs.settled(run);
      const open = this.#runs.get(run);
      if (open) {
        await this.#runs.inTurn(run, ({ folder }) => folder.say({ record: 'star', starred }));
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
      await this.#runs.settled(run);
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
      await this.#runs.settled(run);
      if (!this.#runs.has(run)) {
        const path = await this.#list.folder(run);
        const release = await this.#lock(run);
        try {
          await this.#delete(run, path);
        } finally {
          release();
        }
        return;
      }
      await this.#runs.inTurn(run, async ({ folder, release }) => {
        this.#runs.drop(run);
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
    return this.#settledList(async () => {
      await this.#list.upToDate();
      return outdated(this.#list.index.select({}), setting).map(summary);
    });
  }

  async setRetention(retention: Retention): Promise<string[]> {
    const setting = parseRetention(retention);
    return this.#settledList(async () => {
      await this.#locks.within(LOCK, () => writeRetention(this.#store, setting));
      return this.#discardOutdated();
    });
  }

  /** What is not kept any more would be listed, and gone when it is opened. */
  #settledList<T>(list: () => Promise<T>): Promise<T> {
    return guarded(async () => {
      await this.#runs.settled();
      return list();
    });
  }

  async #keepOpen(run: string, folder: RunFolder, release: () => void): Promise<void> {
    this.#runs.keep(run, folder, release);
    const operation = folder.record.operation as Memory['operation'];
    await this.#list.index.remember(run, { operation }, entryOf(folder));
  }

  async #end(run: string, open: OpenRun, ending: RunRecord['current_state']): Promise<void> {
    const { folder } = open;
    open.ending = ending;
    await folder.append(stateFact(ending, this.#now().toISOString()));
    this.#leave(run, open);
  }

  /** The run's end is in its journal. */
  #leave(run: string, open: OpenRun): void {
    const { folder } = open;
    const follow = async () => {
      await folder.describe();
      await this.#list.index.put(entryOf(folder));
    };
    this.#runs.leave(run, open, follow, async () => {
      void this.#sketch(entryOf(folder));
      // If this fails, the next end checks them again.
      await this.#discardOutdated();
    });
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
    for (const { run, ending } of this.#runs.pending()) {
      await this.#runs.inTurn(run, (open) => this.#end(run, open, ending)).catch(() => {});
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
      const release = this.#runs.folder(run_id) ? null : await this.#locks.tryHold(lockOf(run_id));
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
    const record = this.#runs.folder(run)?.record ?? (await readFolder(this.#store, path))?.record;
    const expected = record?.entities.find(({ filename }) => filename === name)?.sha256;
    if (expected && expected !== (await sha256(file))) {
      throw new StudioError(
        'storage_unavailable',
        `The file "${name}" of the run "${run}" is not what was saved: it was changed or damaged on the disk; delete the run, or make it again with its settings.`,
      );
    }
    this.#verified.add(`${run}/${name}`);
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
}
