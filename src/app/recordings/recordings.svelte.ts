import { SvelteSet } from 'svelte/reactivity';
import { StudioError } from '../../core/errors.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import type { RecordingsClient } from '../../jobs/recordings.ts';
import type { LostRun, Retention, RunSummary } from '../../recorder/recorder_api.ts';
import { pickFolder } from '../library/disk.svelte.ts';
import type { Told } from '../parts/told.svelte.ts';
import type { Offered } from './offered.ts';
import { foldersOfRuns, saveRun } from './run_export.ts';
import { missing, runs } from './runs.ts';

/** More runs than any device holds: a list says all of them, and shows the few in sight. */
const ALL = Number.MAX_SAFE_INTEGER;

/** What was recorded: found, starred, selected, saved elsewhere, read in and deleted. */
export class Recordings {
  text = $state('');
  onlyStarred = $state(false);
  /** All runs, newest first; null until they were read. */
  all = $state.raw<RunSummary[] | null>(null);
  /** Runs that the browser has lost, newest first. */
  lost = $state.raw<LostRun[]>([]);
  /** Those that the search asks for. */
  found = $state.raw<RunSummary[]>([]);
  /** One sentence when they cannot be read, else null. */
  note = $state<string | null>(null);
  /** What somebody brought to this view, until they say whether to keep it. */
  offered = $state.raw<Offered | null>(null);
  /** What is being done with many runs, in words; null when nothing is. */
  work = $state<string | null>(null);
  retention = $state.raw<Retention>({ keep: 'all' });
  /** The run whose details are on show, or null. */
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

  /** Reads the list anew; the search stays. */
  async refresh(): Promise<void> {
    try {
      const [all, retention, lost] = await Promise.all([
        this.client.find({ limit: ALL }),
        this.client.retention(),
        this.client.lost(),
      ]);
      this.#take(all);
      this.lost = lost;
      // The same again must not take back what somebody is choosing just now.
      if (JSON.stringify(retention) !== JSON.stringify(this.retention)) {
        this.retention = retention;
      }
      this.note = null;
      await this.search();
    } catch (error) {
      this.note = StudioError.from(error).message;
    }
  }

  /** Finds what text and star ask for; while it looks, what was found before stays on show. */
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
      // Somebody may have asked for the starred ones before this one was.
      await this.search();
    }
    this.#told.announce(starred ? 'Starred.' : 'Star taken off.');
  }

  /** For good. What could not be deleted stays listed, and the person is told why. */
  async delete(chosen: RunSummary[]): Promise<void> {
    const deleted = await this.#each(chosen, 'Deleting', async ({ run_id }) => {
      await this.client.delete(run_id);
      this.forget(run_id);
    });
    if (deleted > 0) {
      this.#told.announce(`${runs(deleted)} deleted.`);
    }
  }

  /** Takes a run that is gone off the list. */
  forget(run: string): void {
    this.all = this.all?.filter(({ run_id }) => run_id !== run) ?? null;
    this.found = this.found.filter(({ run_id }) => run_id !== run);
    this.selected.delete(run);
    this.shown = this.shown === run ? null : this.shown;
    this.#onDelete(run);
  }

  /** Takes runs that the browser has lost off their list: they are made again, or nobody misses them. */
  async forgetLost(chosen: LostRun[]): Promise<void> {
    const ids = chosen.map(({ run_id }) => run_id);
    const isDone = await this.#attempt(() => this.client.forgetLost(ids).then(() => true));
    if (isDone) {
      this.lost = this.lost.filter(({ run_id }) => !ids.includes(run_id));
    }
  }

  /** Writes each run's folder into one that the person chooses. */
  async save(chosen: RunSummary[]): Promise<void> {
    const folder = await this.#attempt(() => pickFolder('readwrite'));
    if (!folder) {
      return;
    }
    let lost = 0;
    const saved = await this.#each(chosen, 'Saving', async ({ run_id }) => {
      lost += await saveRun(this.client, run_id, folder);
    });
    if (saved > 0) {
      const missing = lost === 0 ? '' : ` ${lost} of their files had been lost before.`;
      this.#told.tell(`${runs(saved)} saved to the folder "${folder.name}".${missing}`);
    }
  }

  /** Reads in every run of a folder that {@link save} wrote to. */
  async import(list: () => FolderFile[] | Promise<FolderFile[]>): Promise<void> {
    const files = await this.#attempt(async () => await list());
    if (!files) {
      return;
    }
    const read = await this.#each(foldersOfRuns(files), 'Reading in', async (folder) => {
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

  /** What a setting would delete now; null when that could not be found out. */
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

  /** One after the other, up to the first that fails. @returns how many were done */
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
