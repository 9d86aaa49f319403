import { tick } from 'svelte';
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { Job, Offer } from '../../core/job.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { QueueView } from '../../jobs/job_watchers.ts';
import type { QueueState } from '../../jobs/service.ts';
import { t } from '../messages/messages.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';
import type { Told } from '../parts/told.svelte.ts';

const keptSchema = v.object({
  /** Whether somebody who looks elsewhere is told when everything is done. */
  notifies: v.fallback(v.boolean(), false),
});

/** The jobs of this browser, as the page shows them and as a person changes them. */
export class Queue {
  jobs = $state.raw<Job[]>([]);
  state = $state.raw<QueueState>({ isPaused: false, runs: 'nowhere', forever: null });
  /** One sentence when waiting jobs do not outlast the visit; else null. */
  note = $state<string | null>(null);

  readonly running = $derived(this.jobs.find((job) => job.state === 'running') ?? null);
  readonly waiting = $derived(this.jobs.filter((job) => job.state === 'pending'));
  /** Newest first. */
  readonly ended = $derived(
    this.jobs
      .filter((job) => job.state === 'completed' || job.state === 'failed' || job.state === 'cancelled')
      .sort((a, b) => (b.finishedAt ?? 0) - (a.finishedAt ?? 0)),
  );
  readonly failed = $derived(this.ended.filter((job) => job.state === 'failed'));
  /** Why jobs wait although their turn has come, by the checkpoint that they wait for. */
  readonly obstacles = $derived(
    Object.entries(
      Object.fromEntries(
        this.waiting.flatMap(({ obstacle, operation }) =>
          obstacle === null ? [] : [[operation.checkpoint ?? '', obstacle] as const],
        ),
      ),
    ),
  );
  /** Whether there is more to say than the button does. */
  readonly isWorthShowing = $derived(this.jobs.length > 0 || this.state.isPaused || this.note !== null);

  readonly #client: JobClient;
  readonly #told: Told;
  readonly #submit: (operation: Offer['operation']) => Promise<Job>;
  readonly #kept = new Persisted('darkroom.queue', keptSchema);

  /** @param submit something that was not accepted before */
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

  /** Asks the browser for permission, so it has to be called from a press. */
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

  /** Another operation in place of one that failed. */
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

  /** Puts a waiting job before the one that is at this place of the line, from 0; past the last one = last. */
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

/** What a row says of a job. */
export function wordsOf(job: Job): string {
  const { prompt } = job.operation.parameters;
  return typeof prompt === 'string' && prompt !== '' ? prompt : t('no words');
}
