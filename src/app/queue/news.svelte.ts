import type { Job } from '../../core/job.ts';
import type { QueueView } from '../../jobs/job_watchers.ts';
import { said } from '../messages/messages.svelte.ts';
import { notify, Unseen } from '../parts/attention.ts';
import { duration, stageWords } from '../parts/progress.ts';
import type { Told } from '../parts/told.svelte.ts';
import { wordOf, type Run } from '../recordings/runs.ts';
import type { Queue } from './queue.svelte.ts';

/** Tells the person what happens to their jobs: started, done, failed or interrupted. */
export class JobNews {
  /** Results finished while nobody was looking at this tab. */
  unseen = $state(0);

  readonly #queue: Queue;
  readonly #told: Told;
  readonly #onDone: (job: Job) => Run | null;
  readonly #unseen = new Unseen((count) => (this.unseen = count));
  /** The jobs at the last check; null before the first. */
  #seen: Record<string, Job> | null = null;

  /** @param onDone receives a job that made something and returns its run, if any */
  constructor(queue: Queue, told: Told, onDone: (job: Job) => Run | null) {
    this.#queue = queue;
    this.#told = told;
    this.#onDone = onDone;
  }

  /** Whatever happened before is no news. */
  begin({ jobs }: QueueView): void {
    this.#seen = Object.fromEntries(jobs.map((job) => [job.id, job]));
  }

  /** Only checks changed jobs: there may be a thousand. */
  take({ jobs, changed }: QueueView): void {
    if (!this.#seen) {
      return;
    }
    for (const job of jobs.filter(({ id }) => changed.has(id))) {
      const old = this.#seen[job.id];
      this.#seen[job.id] = job;
      if (job.state === 'running' && job.progress && job.progress.stage !== old?.progress?.stage) {
        this.#told.announce(`${stageWords(job)}.`);
      }
      // A quick job may have ended before it was seen waiting.
      if (job.state !== (old?.state ?? 'pending')) {
        this.#onState(job);
      }
    }
  }

  #onState(job: Job): void {
    if (job.state === 'pending') {
      this.#told.announce('Interrupted; it goes on when its turn comes.');
    } else if (job.state === 'running') {
      this.#told.announce('Started.');
    } else if (job.state === 'completed') {
      this.#unseen.add();
      const run = this.#onDone(job);
      if (run) {
        this.#told.announce(readySentence(run));
      }
    } else if (job.state === 'cancelled') {
      const run = job.entities.some(({ metadata }) => metadata.is_part === true) ? this.#onDone(job) : null;
      this.#told.announce(run ? `Cancelled; the ${wordOf(run.results[0])} is kept as far as it came.` : 'Cancelled.');
    } else if (job.state === 'failed' && job.error) {
      const { error, offer } = job;
      const again = error.retry === 'same' ? { label: 'Try again', run: () => void this.#queue.repeat(job.id) } : null;
      const action = offer ? { label: offer.label, run: () => void this.#queue.take(offer) } : again;
      this.#told.tell(error.message, action);
    }
    const { notifies, state, running, waiting } = this.#queue;
    const isDone = running === null && waiting.length === 0;
    if (isDone && notifies && state.runs === 'here') {
      void notify(said(job.state === 'completed' ? 'Your pictures are ready.' : 'All is done.'));
    }
  }
}

function readySentence({ results, seconds }: Run): string {
  const isAsked = results.length === 0;
  const word = wordOf(results[0]);
  if (seconds === null) {
    return isAsked ? 'The words are ready to be edited.' : `The ${word} is ready.`;
  }
  const after = duration(seconds);
  return isAsked ? `The words are ready to be edited, after ${after}.` : `The ${word} is ready, after ${after}.`;
}
