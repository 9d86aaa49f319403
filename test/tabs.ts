/** Tabs of one browser for Node tests: one database, one channel, and Web Locks that can be stolen and end with their tab. */
import { BUILTIN_CHECKPOINTS } from '../src/core/builtin_checkpoints.ts';
import { IndexedJobStore } from '../src/jobs/job_store.ts';
import type { JobStore } from '../src/jobs/job_store.ts';
import { Receiver } from '../src/jobs/queue.ts';
import type { Resolve } from '../src/jobs/queue.ts';
import { StoredJobs } from '../src/jobs/stored_jobs.ts';
import { Turn } from '../src/jobs/turn.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';

export const SOURCE: CheckpointSource = { kind: 'builtin', name: BUILTIN_CHECKPOINTS[0].id };

export interface Tab {
  jobs: StoredJobs;
  turn: Turn;
  receiver: Receiver<CheckpointSource>;
  /** Like closing or crashing the tab: its locks are released and it falls silent. */
  end(): void;
}

const found: Resolve<CheckpointSource> = () => Promise.resolve({ type: 'found', payload: SOURCE });

let browsers = 0;

export class Browser {
  readonly store: JobStore;
  readonly #name: string;
  readonly #locks = new LockTable();
  readonly #tabs: Tab[] = [];
  #time = 0;
  #ids = 0;

  constructor(store?: JobStore) {
    this.#name = `browser ${(browsers += 1)}`;
    this.store = store ?? new IndexedJobStore(this.#name);
  }

  readonly now = () => (this.#time += 1);

  /** Job access from a place that runs no jobs, such as the service worker. */
  jobs(store = this.store): StoredJobs {
    return this.#open(store, null).jobs;
  }

  tab(resolve: Resolve<CheckpointSource> = found, store = this.store): Tab {
    const tab = this.#open(store, resolve);
    return tab;
  }

  close(): void {
    this.#tabs.splice(0).forEach((tab) => tab.end());
  }

  #open(store: JobStore, resolve: Resolve<CheckpointSource> | null): Tab {
    const locks = this.#locks.client();
    const jobs = new StoredJobs({
      store,
      channel: new BroadcastChannel(this.#name),
      locks: locks as unknown as LockManager,
      now: this.now,
      newId: () => String((this.#ids += 1)),
    });
    const turn = new Turn(locks as unknown as LockManager);
    // Without a resolver no one takes a turn.
    const receiver = resolve
      ? new Receiver(jobs, turn, resolve, { now: this.now })
      : (null as unknown as Tab['receiver']);
    let hasEnded = false;
    const tab = {
      jobs,
      turn,
      receiver,
      end: () => {
        if (!hasEnded) {
          hasEnded = true;
          jobs.close();
          locks.end();
        }
      },
    };
    this.#tabs.push(tab);
    return tab;
  }
}

interface Wish {
  name: string;
  client: object;
  grant: () => Promise<unknown>;
  resolve: (value: unknown) => void;
  reject: (reason: unknown) => void;
}

/** Exclusive locks only. */
class LockTable {
  readonly #held = new Map<string, Wish>();
  #line: Wish[] = [];

  client() {
    let hasEnded = false;
    const client = {
      request: (
        name: string,
        options: { steal?: boolean; signal?: AbortSignal },
        callback: () => Promise<unknown>,
      ): Promise<unknown> =>
        new Promise((resolve, reject) => {
          if (hasEnded) {
            return;
          }
          const wish: Wish = { name, client, grant: callback, resolve, reject };
          const gone = new DOMException('The lock is gone.', 'AbortError');
          options.signal?.addEventListener('abort', () => {
            if (this.#line.includes(wish)) {
              this.#line = this.#line.filter((other) => other !== wish);
              reject(gone);
            }
          });
          if (options.steal) {
            const robbed = this.#held.get(name);
            this.#held.delete(name);
            this.#line.unshift(wish);
            robbed?.reject(gone);
          } else {
            this.#line.push(wish);
          }
          queueMicrotask(() => this.#grant(name));
        }),
      query: () => Promise.resolve({ held: [...this.#held.values()].map(({ name }) => ({ name })), pending: [] }),
      end: () => {
        hasEnded = true;
        this.#line = this.#line.filter((wish) => wish.client !== client);
        const names = [...this.#held].filter(([, wish]) => wish.client === client).map(([name]) => name);
        names.forEach((name) => this.#held.delete(name));
        names.forEach((name) => this.#grant(name));
      },
    };
    return client;
  }

  #grant(name: string): void {
    const next = this.#line.find((wish) => wish.name === name);
    if (next && !this.#held.has(name)) {
      this.#line = this.#line.filter((wish) => wish !== next);
      this.#held.set(name, next);
      void next.grant().then(next.resolve, next.reject);
    }
  }
}
