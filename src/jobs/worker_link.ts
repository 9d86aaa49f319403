/** A worker and its pending calls, none of which waits for a worker that can no longer answer. */
import * as Comlink from 'comlink';
import { StudioError } from '../core/errors.ts';
import { callsTo } from '../../workers/connection.ts';
import type { WorkerSignal } from '../../workers/connection.ts';
import { deferred } from './deferred.ts';

/** The part of `Worker` used here, so Node tests can pass a message port. */
export interface WorkerLike extends Comlink.Endpoint {
  terminate(): void;
}

type Remote = Record<string, (...args: unknown[]) => Promise<unknown>>;
type Methods<Api> = { [M in keyof Api]: (...args: never[]) => Promise<unknown> };

/** How long a worker's script may take to load and report ready. */
const READY_WITHIN_MS = 60_000;

/** Default time a call may go without a sign of life: far longer than any takes on a slow machine. */
const CALL_WITHIN_MS = 5 * 60_000;

/** The shortest interval between the watchdog's checks. */
const LOOK_EVERY_MS = 5_000;

/** How long the worker may be silent, in milliseconds. */
export interface Patience<Api> {
  /** Before it reports ready. */
  ready?: number;
  /** During a call of these methods; evaluated at every check. */
  calls?: Partial<Record<keyof Api, () => number>>;
  /** During any other call. */
  call?: number;
}

interface Waiting {
  method: string;
  reject: (error: StudioError) => void;
  /** Milliseconds of silence observed during this call. */
  silent: number;
}

/** Sentences on what to do about a worker's end. */
const REMEDIES = {
  again: (what: string) => `${what}; try again.`,
  reload: (what: string) => `${what}; reload the page.`,
  connection: (what: string) => `${what}; check the connection and reload the page.`,
};

/**
 * Owns one worker. Comlink's promises stay pending forever if a worker's script is missing, the worker dies or a message is unreadable;
 * here every call also ends with the worker, as `worker_failed`.
 * The watchdog ends a worker that hangs. There is no heartbeat timer: it would only prove that the worker's event loop turns, which it
 * also does while a run on a lost GPU never settles (measured), and does not while the processor computes a step, which is no hang. The
 * signs of life are answers, and calls of the functions passed to a call. Those report something finished (a range of weights uploaded, a
 * step done, a file saved), which is the only proof that work gets done. How long that may take is up to whoever creates the link. A call
 * waiting behind a long one shares its patience, because a busy worker answers when it gets to it.
 */
export class WorkerLink<Api extends Methods<Api>> {
  readonly #name: string;
  readonly #patience: Patience<Api>;
  readonly #worker: WorkerLike;
  readonly #remote: Remote;
  readonly #ready = deferred<string[]>();
  readonly #ended = deferred<StudioError>();
  readonly #waiting = new Set<Waiting>();
  readonly #watch = new AbortController();
  #watchdog: ReturnType<typeof setTimeout> | null = null;
  #failure: StudioError | null = null;
  #lock: string | null = null;

  /** @param name what the worker is, to begin a sentence with: "The generator" */
  constructor(name: string, worker: WorkerLike, patience: Patience<Api> = {}) {
    this.#name = name;
    this.#worker = worker;
    this.#patience = patience;
    this.#ready.promise.catch(() => {});
    this.#remote = callsTo(worker) as unknown as Remote;

    const start = setTimeout(() => {
      this.#fail(`${name} did not start`, 'reload');
    }, patience.ready ?? READY_WITHIN_MS);
    void this.#ready.promise.finally(() => clearTimeout(start)).catch(() => {});

    worker.addEventListener('message', (event) => {
      this.#onSignal((event as MessageEvent<WorkerSignal | null>).data);
    });
    worker.addEventListener('messageerror', () => {
      this.#fail(`${name} sent something that this browser cannot read`, 'reload');
    });
    worker.addEventListener('error', (event) => {
      const { message } = event as ErrorEvent;
      // A script that is missing or does not load causes an event without a message.
      if (message) {
        this.#fail(`${name} stopped with an error`, 'again', message);
      } else {
        this.#fail(`${name} could not be loaded`, 'connection');
      }
    });
  }

  /** Why this worker can no longer be used; null while it can. */
  get failure(): StudioError | null {
    return this.#failure;
  }

  /** Whether no call is pending. */
  get isIdle(): boolean {
    return this.#waiting.size === 0;
  }

  /** Resolves with the reason when the worker has ended; stays pending while it lives. */
  get ended(): Promise<StudioError> {
    return this.#ended.promise;
  }

  /** The Web Lock the worker holds while alive, once it is ready; null without Web Locks. */
  get lock(): string | null {
    return this.#lock;
  }

  /**
   * Calls a method of the worker's owner. Objects marked by `Comlink.transfer` are moved, functions marked by
   * `Comlink.proxy` can be called from there, until the worker is ended.
   * @throws StudioError the owner's own, or `worker_failed`
   */
  async call<M extends keyof Api & string>(
    method: M,
    ...args: Parameters<Api[M]>
  ): Promise<Awaited<ReturnType<Api[M]>>> {
    const methods = await this.#ready.promise;
    if (this.#failure) {
      throw this.#failure;
    }
    if (!methods.includes(method)) {
      throw new StudioError('worker_failed', `${this.#name} does not know "${method}"; reload the page.`);
    }
    const { promise, resolve, reject } = deferred<unknown>();
    const waiting: Waiting = { method, reject, silent: 0 };
    this.#waiting.add(waiting);
    this.#look();
    try {
      const answer = this.#remote[method];
      answer(...args.map((argument: unknown) => this.#heard(argument))).then(resolve, reject);
      return (await promise) as Awaited<ReturnType<Api[M]>>;
    } catch (error) {
      throw StudioError.from(error);
    } finally {
      this.#waiting.delete(waiting);
      this.#sign();
    }
  }

  /** Ends the worker at once; pending calls reject with `reason`. */
  terminate(
    reason = new StudioError('worker_failed', REMEDIES.again(`${this.#name} was stopped`), { retry: 'same' }),
  ): void {
    if (this.#failure) {
      return;
    }
    this.#failure = reason;
    this.#watch.abort();
    clearTimeout(this.#watchdog ?? undefined);
    this.#worker.terminate();
    this.#ready.reject(reason);
    this.#waiting.forEach(({ reject }) => reject(reason));
    this.#waiting.clear();
    this.#ended.resolve(reason);
  }

  #fail(what: string, remedy: keyof typeof REMEDIES, cause?: string): void {
    this.terminate(new StudioError('worker_failed', REMEDIES[remedy](what), { retry: 'same', cause }));
  }

  /** Wraps a function for the worker to call: each call is a sign of life, and calls after the end are ignored. */
  #heard(argument: unknown): unknown {
    if (typeof argument !== 'function' || !(Comlink.proxyMarker in argument)) {
      return argument;
    }
    const listener = argument as unknown as (...given: unknown[]) => unknown;
    return Comlink.proxy((...given: unknown[]) => {
      if (this.#failure) {
        return undefined;
      }
      this.#sign();
      return listener(...given);
    });
  }

  #sign(): void {
    this.#waiting.forEach((waiting) => (waiting.silent = 0));
  }

  /** Keeps checking while a call is pending. */
  #look(): void {
    if (this.#watchdog !== null || this.#failure) {
      return;
    }
    const patience = this.#longest();
    const every = Math.min(LOOK_EVERY_MS, Math.max(1, patience / 4));
    const from = performance.now();
    this.#watchdog = setTimeout(() => {
      this.#watchdog = null;
      if (this.#waiting.size === 0) {
        return;
      }
      // A machine that slept, or a page with throttled timers, did not observe silence all that time.
      const passed = Math.min(performance.now() - from, 2 * every);
      this.#waiting.forEach((waiting) => (waiting.silent += passed));
      const silent = [...this.#waiting].find((waiting) => waiting.silent >= this.#longest());
      if (silent) {
        this.#fail(`${this.#name} does not respond any more`, 'again', `no sign of life during ${silent.method}`);
      } else {
        this.#look();
      }
    }, every);
  }

  #longest(): number {
    const { calls, call = CALL_WITHIN_MS } = this.#patience;
    return Math.max(0, ...[...this.#waiting].map(({ method }) => calls?.[method as keyof Api]?.() ?? call));
  }

  #onSignal(signal: WorkerSignal | null): void {
    if (signal?.darkroom === 'ready') {
      this.#lock = signal.lock;
      this.#ready.resolve(signal.methods);
      if (signal.lock !== null) {
        this.#awaitDeath(signal.lock);
      }
    } else if (signal?.darkroom === 'ended') {
      this.terminate(StudioError.fromData(signal.error));
    } else if (signal?.darkroom === 'unreadable') {
      this.#fail(`${this.#name} was sent something that this browser cannot pass on`, 'reload');
    }
  }

  /** We get the lock once the worker that held it is gone. */
  #awaitDeath(lock: string): void {
    navigator.locks
      .request(lock, { signal: this.#watch.signal }, () => {
        this.#fail(`${this.#name} stopped unexpectedly`, 'again');
      })
      .catch(() => {
        // Our own `terminate` withdrew the request.
      });
  }
}
