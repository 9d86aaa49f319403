import { tick } from 'svelte';
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { Job, Offer } from '../../core/job.ts';
import { wordsAsked } from '../../core/job_words.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { QueueView } from '../../jobs/job_watchers.ts';
import type { QueueState } from '../../jobs/service.ts';
import { t } from '../messages/messages.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';
import type { Told } from '../parts/told.svelte.ts';

const keptSchema = v.object({
  /** Whether to notify the person when everything is done. */
  notifies: v.fallback(v.boolean(), false),
});

/** This browser's jobs, as shown on the page and changed by the person. */
export class Queue {
  jobs = $state.raw<Job[]>([]);
  state = $state.raw<QueueState>({ isPaused: false, runs: 'nowhere', forever: null });
  /** A sentence if waiting jobs will not outlast the visit; else null. */
  note = $state<string | null>(null);

  /** Several may run at once on other machines. */
  readonly atWork = $derived(this.jobs.filter((job) => job.state === 'running'));
  readonly running = $derived(this.atWork[0] ?? null);
  readonly waiting = $derived(this.jobs.filter((job) => job.state === 'pending'));
  /** Newest first. */
  readonly ended = $derived(
    this.jobs
      .filter((job) => job.state === 'completed' || job.state === 'failed' || job.state === 'cancelled')
      .sort((a, b) => (b.finishedAt ?? 0) - (a.finishedAt ?? 0)),
  );
  readonly failed = $derived(this.ended.filter((job) => job.state === 'failed'));
  /** Why jobs wait although their turn has come, by the checkpoint they wait for. */
  readonly obstacles = $derived(
    Object.entries(
      Object.fromEntries(
        this.waiting.flatMap(({ obstacle, operation }) =>
          obstacle === null ? [] : [[operation.checkpoint ?? '', obstacle] as const],
        ),
      ),
    ),
  );
  /** Whether there is more to show than the button does. */
  readonly isWorthShowing = $derived(this.jobs.length > 0 || this.state.isPaused || this.note !== null);

  readonly #client: JobClient;
  readonly #told: Told;
  readonly #submit: (operation: Offer['operation']) => Promise<Job>;
  readonly #kept = new Persisted('darkroom.queue', keptSchema);

  /** @param submit submits a new operation */
  constructor(client: JobClient, told: Told, submit: (operation: Offer['operation']) => Promise<Job>) {
    this.#client = client;
    this.#told = told;
    this.#submit = submit;
  }

  show({ jobs, queue }: Pick<QueueView, 'jobs' | 'queue'>): void {
    this.jobs = jobs;
    this.state = queue;
    this.note = this.#client.queueNote;
  }

  get notifies(): boolean {
    return this.#kept.current.notifies;
  }

  /** Asks the browser for permission, so it must be called from a click. */
  async notify(isOn: boolean): Promise<void> {
    const permission = isOn && 'Notification' in window ? await Notification.requestPermission() : 'denied';
    this.#kept.current.notifies = isOn && permission === 'granted';
    this.#kept.keep();
    if (isOn && permission !== 'granted') {
      this.#told.tell('The browser does not let Darkroom notify you; allow notifications for this page first.');
    }
  }

  takeOver(): void {
    this.#client.takeOver();
  }

  async pause(isPaused: boolean): Promise<void> {
    await this.#try(() => this.#client.pause(isPaused));
    this.#told.announce(isPaused ? 'Paused. A running job goes on.' : 'Goes on.');
  }

  cancel(id: string): Promise<void> {
    return this.#try(() => this.#client.cancel(id));
  }

  cancelAll(): Promise<void> {
    return this.#try(() => this.#client.cancelAll());
  }

  repeat(id: string): Promise<void> {
    return this.#try(() => this.#client.repeat(id));
  }

  /** Submits an alternative to a failed operation. */
  take(offer: Offer): Promise<void> {
    return this.#try(() => this.#submit(offer.operation));
  }

  forget(jobs: readonly Job[]): Promise<void> {
    return this.#try(async () => {
      for (const { id } of jobs) {
        await this.#client.remove(id);
      }
    });
  }

  forever(id: string | null): Promise<void> {
    return this.#try(() => this.#client.forever(id));
  }

  /** Moves a waiting job before the one at this place in the queue, from 0; past the end = last. */
  async move(id: string, place: number): Promise<void> {
    const others = this.waiting.filter((job) => job.id !== id);
    const to = Math.max(0, Math.min(place, others.length));
    await this.#try(() => this.#client.reorder(id, others[to]?.id ?? null));
    await tick();
    this.#told.announce(`Place ${to + 1} of ${this.waiting.length}.`);
  }

  async #try(action: () => Promise<unknown>): Promise<void> {
    try {
      await action();
    } catch (error) {
      this.#told.tell(StudioError.from(error).message);
    }
  }
}

/** The text of a job's row. */
export function wordsOf(job: Job): string {
  return wordsAsked(job.operation.parameters) || t('no words');
}
