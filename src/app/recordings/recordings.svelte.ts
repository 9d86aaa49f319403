import { SvelteSet } from 'svelte/reactivity';
import { StudioError } from '../../core/errors.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import type { RecordingsClient } from '../../jobs/recordings.ts';
import type { LostRun, Retention, RunSummary } from '../../recorder/recorder_api.ts';
import { pickFolder } from '../library/disk.svelte.ts';
import type { Told } from '../parts/told.svelte.ts';
import type { Offered } from './offered.ts';
import { missing, runs } from './runs.ts';

/** More runs than any device holds: the list knows all of them, and shows the few in view. */
const ALL = Number.MAX_SAFE_INTEGER;

/** Recordings: searching, starring, selecting, exporting, importing and deleting them. */
export class Recordings {
  text = $state('');
  onlyStarred = $state(false);
  /** All runs, newest first; null until they are read. */
  all = $state.raw<RunSummary[] | null>(null);
  /** Runs that the browser has lost, newest first. */
  lost = $state.raw<LostRun[]>([]);
  /** The runs that match the search. */
  found = $state.raw<RunSummary[]>([]);
  /** A sentence if they cannot be read, else null. */
  note = $state<string | null>(null);
  /** A file brought to this view, until the person decides whether to keep it. */
  offered = $state.raw<Offered | null>(null);
  /** What is being done with many runs, as text; null if nothing is. */
  work = $state<string | null>(null);
  retention = $state.raw<Retention>({ keep: 'all' });
  /** The run whose details are shown, or null. */
  shown = $state<string | null>(null);
  readonly selected = new SvelteSet<string>();

  readonly client: RecordingsClient;
  readonly #told: Told;
  readonly #onDelete: (run: string) => void;
  #searches = 0;

  constructor(client: RecordingsClient, told: Told, onDelete: (run: string) => void) {
    this.client = client;
    this.#told = told;
    this.#onDelete = onDelete;
  }

  readonly isFiltered = $derived(this.text.trim() !== '' || this.onlyStarred);
  readonly bytes = $derived((this.all ?? []).reduce((sum, { bytes }) => sum + bytes, 0));
  readonly selectedRuns = $derived((this.all ?? []).filter(({ run_id }) => this.selected.has(run_id)));

  /** Rereads the list, keeping the search. */
  async refresh(): Promise<void> {
    try {
      const [all, retention, lost] = await Promise.all([
        this.client.find({ limit: ALL }),
        this.client.retention(),
        this.client.lost(),
      ]);
      this.#take(all);
      this.lost = lost;
      // An unchanged list must not undo what the person is selecting.
      if (JSON.stringify(retention) !== JSON.stringify(this.retention)) {
        this.retention = retention;
      }
      this.note = null;
      await this.search();
    } catch (error) {
      this.note = StudioError.from(error).message;
    }
  }

  /** Searches by text and star; earlier results stay visible meanwhile. */
  async search(): Promise<void> {
    this.#searches += 1;
    const mine = this.#searches;
    if (!this.isFiltered) {
      this.found = this.all ?? [];
      return;
    }
    const starred = this.onlyStarred ? { starred: true } : {};
    try {
      const found = await this.client.find({ limit: ALL, text: this.text, ...starred });
      if (mine === this.#searches) {
        this.found = found;
        this.#told.announce(found.length === 0 ? 'Nothing found.' : `${runs(found.length)} found.`);
      }
    } catch (error) {
      this.note = StudioError.from(error).message;
    }
  }

  async clearSearch(): Promise<void> {
    this.text = '';
    this.onlyStarred = false;
    await this.search();
  }

  async star(chosen: RunSummary[], starred: boolean): Promise<void> {
    await this.#each(chosen, starred ? 'Starring' : 'Taking stars off', async (run) => {
      await this.client.star(run.run_id, starred);
      this.#replace(run.run_id, { ...run, starred });
    });
    if (this.onlyStarred) {
      // Starred runs may have been requested before this one was starred.
      await this.search();
    }
    this.#told.announce(starred ? 'Starred.' : 'Star taken off.');
  }

  /** Deletes for good. Runs that could not be deleted stay listed, and the person is told why. */
  async delete(chosen: RunSummary[]): Promise<void> {
    const deleted = await this.#each(chosen, 'Deleting', async ({ run_id }) => {
      await this.client.delete(run_id);
      this.forget(run_id);
    });
    if (deleted > 0) {
      this.#told.announce(`${runs(deleted)} deleted.`);
    }
  }

  /** Removes a deleted run from the list. */
  forget(run: string): void {
    this.all = this.all?.filter(({ run_id }) => run_id !== run) ?? null;
    this.found = this.found.filter(({ run_id }) => run_id !== run);
    this.selected.delete(run);
    this.shown = this.shown === run ? null : this.shown;
    this.#onDelete(run);
  }

  /** Removes lost runs from their list: they were made again, or nobody misses them. */
  async forgetLost(chosen: LostRun[]): Promise<void> {
    const ids = chosen.map(({ run_id }) => run_id);
    const isDone = await this.#attempt(() => this.client.forgetLost(ids).then(() => true));
    if (isDone) {
      this.lost = this.lost.filter(({ run_id }) => !ids.includes(run_id));
    }
  }

  /** Exports each run's folder into one the person chooses. */
  async save(chosen: RunSummary[]): Promise<void> {
    const folder = await this.#attempt(() => pickFolder('readwrite'));
    if (!folder) {
      return;
    }
    let lost = 0;
    const saved = await this.#each(chosen, 'Saving', async ({ run_id }) => {
      const { saveRun } = await import('./run_export.ts');
      lost += await saveRun(this.client, run_id, folder);
    });
    if (saved > 0) {
      const missing = lost === 0 ? '' : ` ${lost} of their files had been lost before.`;
      this.#told.tell(`${runs(saved)} saved to the folder "${folder.name}".${missing}`);
    }
  }

  /** Imports every run of a folder written by {@link save}. */
  async import(list: () => FolderFile[] | Promise<FolderFile[]>): Promise<void> {
    const folders = await this.#attempt(async () => {
      const files = await list();
      return (await import('./run_export.ts')).foldersOfRuns(files);
    });
    if (!folders) {
      return;
    }
    const read = await this.#each(folders, 'Reading in', async (folder) => {
      await this.client.import(folder);
    });
    if (read > 0) {
      this.#told.announce(`${runs(read)} read in.`);
      await this.refresh();
    }
  }

  /** Records a picture that was not made here. */
  async keep({ picture, name }: Offered): Promise<void> {
    this.offered = null;
    const kept = await this.#attempt(() => this.client.keep(picture, name));
    if (kept) {
      this.#told.announce(`${name} is kept in the recordings.`);
      if (this.all) {
        await this.refresh();
      }
    }
  }

  /** What a setting would delete now; null if unknown. */
  outdated(retention: Retention): Promise<RunSummary[] | null> {
    return this.#attempt(() => this.client.outdated(retention));
  }

  async setRetention(retention: Retention): Promise<boolean> {
    const deleted = await this.#attempt(() => this.client.setRetention(retention));
    deleted?.forEach((run) => this.forget(run));
    await this.refresh();
    return deleted !== null;
  }

  select(run: string, isSelected: boolean): void {
    if (isSelected) {
      this.selected.add(run);
    } else {
      this.selected.delete(run);
    }
  }

  #take(all: RunSummary[]): void {
    this.all = all;
    missing(this.selected, all).forEach((run) => this.selected.delete(run));
  }

  #replace(id: string, run: RunSummary): void {
    const replaced = (list: RunSummary[]) => list.map((one) => (one.run_id === id ? run : one));
    this.all = this.all && replaced(this.all);
    this.found = replaced(this.found).filter(({ starred }) => starred || !this.onlyStarred);
  }

  /** In order, up to the first failure. @returns how many were done */
  async #each<T>(chosen: T[], what: string, one: (item: T) => Promise<void>): Promise<number> {
    let done = 0;
    await this.#attempt(async () => {
      for (const item of chosen) {
        this.work = chosen.length > 1 ? `${what} ${done + 1} of ${chosen.length} …` : null;
        await one(item);
        done += 1;
      }
    });
    this.work = null;
    return done;
  }

  async #attempt<T>(work: () => Promise<T>): Promise<T | null> {
    try {
      return await work();
    } catch (error) {
      this.#told.tell(StudioError.from(error).message);
      return null;
    }
  }
}
