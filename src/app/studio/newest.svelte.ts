import type { Job } from '../../core/job.ts';
import type { JobClient } from '../../jobs/client.ts';
import { fromJob, fromRecord, isWorthShowing, type Run } from '../recordings/runs.ts';
import { NEWEST_COUNT, newestFirst } from './newest_list.ts';

/** The newest runs with results, and the one on show. */
export class NewestRuns {
  list = $state.raw<Run[]>([]);
  /** The run on show; what is being made comes before it while `follows`. */
  shown = $state.raw<Run | null>(null);
  /** Whether the stage follows the work, and not somebody who looks at an earlier run. */
  follows = $state(true);

  readonly #client: JobClient;

  constructor(client: JobClient) {
    this.#client = client;
  }

  async load(): Promise<void> {
    const records = await this.#client.runs({ limit: NEWEST_COUNT });
    const loaded = records.map(fromRecord).filter(isWorthShowing);
    // What a job told meanwhile is newer than what was read.
    this.list = newestFirst(this.list, loaded);
  }

  show(run: Run): void {
    this.shown = run;
    this.follows = false;
  }

  /** Takes in what a job made, or a part of it. @returns null where it recorded nothing */
  add(job: Job): Run | null {
    const run = fromJob(job);
    if (run) {
      this.list = newestFirst([run], this.list);
      this.shown = this.follows ? run : this.shown;
    }
    return run;
  }

  /** A run is gone. */
  forget(id: string): void {
    if (this.list.some((run) => run.id === id)) {
      this.list = this.list.filter((run) => run.id !== id);
    }
    if (this.shown?.id === id) {
      this.shown = null;
    }
  }
}
