/**
 * All recorded runs: finding their folders, listing and reading them, and recovering what earlier visits left. Listing reads the index; a
 * run's folder is only opened for details, or if recovery is due.
 */
import { StudioError } from '../core/errors.ts';
import type { RunQuery, RunRecord, RunSummary } from './recorder_api.ts';
import { parseFilename } from './entity_file.ts';
import type { FileStore } from './file_store.ts';
import { JOURNAL } from './journal.ts';
import type { Locks } from './locks.ts';
import { RunFolder, filesIn, isDescribed, readFolder, withoutLost } from './run_folder.ts';
import type { Told } from './run_folder.ts';
import { RunIndex, indexEntry, summary } from './run_index.ts';
import type { IndexEntry } from './run_index.ts';
import { METADATA, isRunId, startOf } from './run_record.ts';
import { guarded, noSuchRun } from './storage_refusal.ts';

const ROOT = 'exports/json';
const DAY_MS = 24 * 60 * 60 * 1000;
/** Number of runs recovery checks between writes. */
const RECOVERED_AT_ONCE = 100;

export class RunList {
  readonly index: RunIndex;
  readonly #store: FileStore;
  readonly #locks: Locks;
  readonly #now: () => Date;
  /** Whether all folders are visible; if not, none counts as lost. */
  readonly #isWhole: boolean;
  /** The run's folder, if this tab is writing it. */
  readonly #written: (run: string) => RunFolder | undefined;
  #recovered: Promise<void> | null = null;

  constructor(
    store: FileStore,
    { locks, now, isWhole }: { locks: Locks; now: () => Date; isWhole: boolean },
    written: (run: string) => RunFolder | undefined,
  ) {
    this.#store = store;
    this.#locks = locks;
    this.#now = now;
    this.#isWhole = isWhole;
    this.#written = written;
    this.index = new RunIndex(store, locks);
  }

  /** Recovers what earlier visits left, once: reconciles the index with the folders, and recovers unfinished runs that nobody is writing.
   */
  recover(): Promise<void> {
    this.#recovered ??= guarded(() => this.#recover());
    this.#recovered.catch(() => {
      this.#recovered = null;
    });
    return this.#recovered;
  }

  /** Like {@link recover}, including what other tabs have added since. */
  async upToDate(): Promise<void> {
    await this.recover();
    await this.index.refresh();
  }

  async list(query: RunQuery): Promise<RunRecord[]> {
    await this.upToDate();
    const found: RunRecord[] = [];
    const entries = this.index.select(query);
    for (let page = take(entries, query.limit); page.length > 0; page = take(entries, query.limit - found.length)) {
      const records = await Promise.all(page.map((entry) => this.#listed(entry)));
      found.push(...records.filter((record) => record !== null));
    }
    return found;
  }

  async find(query: RunQuery): Promise<RunSummary[]> {
    await this.upToDate();
    const entries = take(this.index.select(query), query.limit);
    return (await Promise.all(entries.map((entry) => this.#latest(entry)))).map(summary);
  }

  /** The newest run of a job, also if the tab that opened it died before it was in the index. */
  async runOf(job: string, since: number): Promise<string | null> {
    await this.upToDate();
    const known = this.index.ofJob(job, since);
    if (known) {
      return known.run_id;
    }
    for (const [run, path] of await this.#folders()) {
      if (!this.index.get(run) && startOf(run) >= since) {
        const told = await readFolder(this.#store, path).catch(() => null);
        if (told?.job === job) {
          return run;
        }
      }
    }
    return null;
  }

  /** Files that are missing or have another length are listed as lost. */
  async read(run: string): Promise<RunRecord> {
    const written = this.#written(run);
    if (written) {
      return written.record;
    }
    const path = await this.folder(run);
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
  }

  /** @throws StudioError `invalid_operation` if there is no such run */
  async folder(run: string): Promise<string> {
    const folder =
      this.#written(run)?.path ??
      this.index.get(run)?.folder ??
      (await this.#dated(run)) ??
      (await this.#folders()).get(run);
    if (!folder) {
      throw noSuchRun(run);
    }
    return folder;
  }

  async has(run: string): Promise<boolean> {
    const entry = this.index.get(run);
    return (entry !== null && !entry.lost) || (await this.#folders()).has(run);
  }

  async #recover(): Promise<void> {
    await this.index.open();
    // Before the folders, since a run opened by another tab meanwhile may be in the index but not among the folders seen.
    const listed = this.index.runs;
    const folders = await this.#folders();
    if (this.#isWhole) {
      await this.#findLost(listed.filter((run) => !folders.has(run) && !this.#written(run)));
    }
    let found: IndexEntry[] = [];
    for (const [run, path] of folders) {
      const entry = this.index.get(run);
      if (this.#written(run) || (entry && !entry.due && !entry.lost && entry.stage !== 'running')) {
        continue;
      }
      // A run that cannot be recovered now, as on a full disk, is listed as it is and retried later.
      const recovered = await this.#recoverRun(run, path).catch(() => this.#dueEntry(path).catch(() => null));
      if (recovered && JSON.stringify(recovered) !== JSON.stringify(entry)) {
        found.push(recovered);
      }
      if (found.length >= RECOVERED_AT_ONCE) {
        await this.index.put(...found);
        found = [];
      }
    }
    await this.index.put(...found);
  }

  /** Handles runs without a folder: deleted ones are forgotten, the others were lost by the browser. */
  async #findLost(gone: string[]): Promise<void> {
    if (gone.length === 0) {
      return;
    }
    // Another tab may have deleted some since the index was read.
    await this.index.refresh();
    const entries = gone.map((run) => this.index.get(run)).filter((entry) => entry !== null);
    await this.index.drop(...entries.filter(({ leaving }) => leaving).map(({ run_id }) => run_id));
    await this.index.put(
      ...entries
        .filter(({ leaving, lost }) => !leaving && !lost)
        .map((entry) => ({ ...entry, lost: true, due: false })),
    );
  }

  /** The run's index entry; null if nothing is left of the run. */
  async #recoverRun(run: string, path: string): Promise<IndexEntry | null> {
    const names = await filesIn(this.#store, path);
    if (!names.includes(JOURNAL) && (names.includes(METADATA) || names.some(parseFilename))) {
      // The older layout gets a journal when it changes; until then nothing is written to it.
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
        await this.index.drop(run);
        return null;
      }
      await folder.close();
      return entryOf(folder);
    } finally {
      release();
    }
  }

  /** The index may be behind the end of a run that another tab writes. */
  async #latest(entry: IndexEntry): Promise<IndexEntry> {
    const folder = this.#written(entry.run_id);
    if (folder) {
      return entryOf(folder);
    }
    return (entry.stage === 'running' && (await this.#dueEntry(entry.folder).catch(() => null))) || entry;
  }

  async #dueEntry(path: string): Promise<IndexEntry | null> {
    const told = await readFolder(this.#store, path);
    return told && indexEntry(path, told.record, { bytes: bytesOf(told), due: true, job: told.job });
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
    // A tab with an older version of the page may still be writing it, so check again for its end.
    const due = told.record.current_state.stage === 'running';
    return indexEntry(path, interrupted(told.record), { bytes, due });
  }

  async #listed({ run_id, folder }: IndexEntry): Promise<RunRecord | null> {
    const written = this.#written(run_id);
    if (written) {
      return written.record;
    }
    try {
      return (await this.#told(run_id, folder))?.record ?? null;
    } catch (error) {
      if (error instanceof StudioError) {
        // From a later version; its neighbours can still be listed.
        return null;
      }
      throw error;
    }
  }

  /** The folder's content, recovered first if due and no tab is writing it. */
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
      await (folder ? this.index.put(entryOf(folder)) : this.index.drop(run));
      return await readFolder(this.#store, path);
    } catch {
      // On a full disk, read it as it is.
      return { ...told, record: interrupted(told.record) };
    } finally {
      release();
    }
  }

  /** Its folder by the date in its name; without an index, searching all folders takes long. */
  async #dated(run: string): Promise<string | undefined> {
    const start = startOf(run);
    for (const offset of isRunId(run) ? [0, -1, 1] : []) {
      // The date was local then, and the time zone may have changed.
      const day = localDay(start + offset * DAY_MS);
      for (const device of await this.#subfolders(`${ROOT}/${day}`)) {
        const found = (await this.#subfolders(device)).find((path) => path.endsWith(`/${run}`));
        if (found !== undefined) {
          return found;
        }
      }
    }
    return undefined;
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
}

/** The path of a run of this device: under the local date on which it was opened. */
export function folderFor(run: string, device: string): string {
  return `${ROOT}/${localDay(startOf(run))}/${device}/${run}`;
}

function localDay(time: number): string {
  const date = new Date(time);
  const part = (value: number) => String(value).padStart(2, '0');
  return `${date.getFullYear()}-${part(date.getMonth() + 1)}-${part(date.getDate())}`;
}

/** Held by whoever writes to the run or recovers it. */
export function lockOf(run: string): string {
  return `darkroom:run:${run}`;
}

export function entryOf(folder: RunFolder): IndexEntry {
  const bytes = folder.state.entities.reduce((sum, { length }) => sum + length, 0);
  return indexEntry(folder.path, folder.record, { bytes, due: !folder.isDescribed, job: folder.state.opened.job });
}

function bytesOf({ lengths }: Told): number {
  return [...(lengths?.values() ?? [])].reduce((sum, length) => sum + length, 0);
}

/** Nobody writes the older layout any more. */
function interrupted(record: RunRecord): RunRecord {
  return record.current_state.stage === 'running' ? { ...record, current_state: { stage: 'interrupted' } } : record;
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
