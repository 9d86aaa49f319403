/**
 * The runs this recorder writes. A run has ended once its journal says so; what follows from that is written behind it, and whoever changes
 * the run, or reads what is derived from it, waits until it {@link OpenRuns.settled}.
 */
import { assert } from '../core/errors.ts';
import type { RunRecord } from './recorder_api.ts';
import type { RunFolder } from './run_folder.ts';
import { guarded } from './storage_refusal.ts';

export interface OpenRun {
  readonly folder: RunFolder;
  readonly release: () => void;
  /** Pending work; changes of one run are serialised. */
  last: Promise<unknown>;
  /** Its outcome, if that could not be written. */
  ending: RunRecord['current_state'] | null;
}

export class OpenRuns {
  readonly #open = new Map<string, OpenRun>();
  /** Ended ones, whose locks are still held. */
  readonly #ending = new Map<string, { folder: RunFolder; settled: Promise<void> }>();
  /** Everything that follows from ends so far. */
  #all = Promise.resolve();

  get(run: string): OpenRun | undefined {
    return this.#open.get(run);
  }

  has(run: string): boolean {
    return this.#open.has(run);
  }

  /** The folder of a run that is open, or not settled yet. */
  folder(run: string): RunFolder | undefined {
    return (this.#open.get(run) ?? this.#ending.get(run))?.folder;
  }

  keep(run: string, folder: RunFolder, release: () => void): void {
    this.#open.set(run, { folder, release, last: Promise.resolve(), ending: null });
  }

  /** Does the work after what was asked before it of the same run, which must be open by then. */
  inTurn<T>(run: string, work: (open: OpenRun) => Promise<T>): Promise<T> {
    const open = this.#open.get(run);
    assert(open, `the run "${run}" is open`);
    const result = open.last.then(() => {
      assert(this.#open.get(run) === open, `the run "${run}" is open`);
      return guarded(() => work(open));
    });
    open.last = result.catch(() => {});
    return result;
  }

  /** Outcomes that could not be written when their runs ended. */
  pending(): { run: string; ending: RunRecord['current_state'] }[] {
    return [...this.#open].flatMap(([run, { ending }]) => (ending ? [{ run, ending }] : []));
  }

  /** The run is deleted: whoever is in its turn has its folder and its lock. */
  drop(run: string): void {
    this.#open.delete(run);
  }

  /**
   * The run has ended. It takes nothing more; its lock is held until what follows is written.
   * @param follow what to write in its folder and of it
   * @param afterwards what concerns other runs, without the lock
   */
  leave(run: string, { folder, release }: OpenRun, follow: () => Promise<void>, afterwards: () => Promise<void>): void {
    this.#open.delete(run);
    // The journal has the end: the next start writes what could not be written now.
    const settled = quietly(follow).then(() => quietly(() => folder.close()));
    const ending = { folder, settled };
    this.#ending.set(run, ending);
    const over = settled.then(() => {
      this.#ending.delete(run);
      release();
      return quietly(afterwards);
    });
    this.#all = Promise.all([this.#all, over]).then(() => undefined);
  }

  /** Resolves when nothing more follows from the run's end, or, without a run, from any so far. */
  async settled(run?: string): Promise<void> {
    await (run === undefined ? this.#all : this.#ending.get(run)?.settled);
  }
}

async function quietly(work: () => Promise<void>): Promise<void> {
  await work().catch(() => {});
}
