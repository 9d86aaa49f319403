import type { Job } from '../../core/job.ts';
import type { JobClient } from '../../jobs/client.ts';
import { fromJob, fromRecord, isWorthShowing, type Run } from '../recordings/runs.ts';

/** Beside the stage; the recordings have all of them. */
const COUNT = 18;

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
    const records = await this.#client.runs({ limit: COUNT });
    const loaded = records.map(fromRecord).filter(isWorthShowing);
    const newer = this.list.filter((run) => !loaded.some((known) => known.id === run.id));
    this.list = [...newer, ...loaded].slice(0, COUNT);
  }

  show(run: Run): void {
    this.shown = run;
    this.follows = false;
  }

  /** Takes in what a completed job made. @returns null where it recorded nothing */
  add(job: Job): Run | null {
    const run = fromJob(job);
    if (run) {
      this.list = [run, ...this.list].slice(0, COUNT);
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
