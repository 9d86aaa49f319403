/** A worker and the calls that are waiting for it: none of them waits for a worker that cannot answer any more. */
import type * as Comlink from 'comlink';
import { StudioError } from '../core/errors.ts';
import { callsTo } from '../../workers/protocol.ts';
import type { WorkerSignal } from '../../workers/protocol.ts';
import { deferred } from './deferred.ts';

/** The part of `Worker` that is used, so that Node tests can hand in a message port. */
export interface WorkerLike extends Comlink.Endpoint {
  terminate(): void;
}

type Remote = Record<string, (...args: unknown[]) => Promise<unknown>>;
type Methods<Api> = { [M in keyof Api]: (...args: never[]) => Promise<unknown> };

/** How long a worker's script may take to load and speak up. */
const READY_WITHIN_MS = 60_000;

/**
 * Owns one worker. Comlink's promises stay pending for ever when a worker's script is missing, when the worker dies or
 * when a message is unreadable; here every call also ends with the worker, as `worker_failed`.
 */
export class WorkerLink<Api extends Methods<Api>> {
  readonly #name: string;
  readonly #worker: WorkerLike;
  readonly #remote: Remote;
  readonly #ready = deferred<string[]>();
  readonly #ended = deferred<StudioError>();
  readonly #waiting = new Set<(error: StudioError) => void>();
  readonly #watch = new AbortController();
  #failure: StudioError | null = null;

  /** @param name what the worker does, for sentences such as "The generator stopped …" */
  constructor(name: string, worker: WorkerLike, readyWithin = READY_WITHIN_MS) {
    this.#name = name;
    this.#worker = worker;
    this.#ready.promise.catch(() => {});
    this.#remote = callsTo(worker) as unknown as Remote;

    const patience = setTimeout(() => {
      this.#fail(`The ${name} did not start; reload the page.`);
    }, readyWithin);
    void this.#ready.promise.finally(() => clearTimeout(patience)).catch(() => {});

    worker.addEventListener('message', (event) => {
      this.#onSignal((event as MessageEvent<WorkerSignal | null>).data);
    });
    worker.addEventListener('messageerror', () => {
      this.#fail(`The ${name} sent something that this browser cannot read; reload the page.`);
    });
    worker.addEventListener('error', (event) => {
      const { message } = event as ErrorEvent;
      // A script that is missing or does not load gives an event without a message.
      const what = message
        ? 'stopped with an error; try again'
        : 'could not be loaded; check the connection and reload the page';
      this.#fail(`The ${name} ${what}.`, message);
    });
  }

  /** Why this worker cannot be used any more, or null while it can. */
  get failure(): StudioError | null {
    return this.#failure;
  }

  /** Resolves with the reason when the worker has ended; stays pending while it lives. */
  get ended(): Promise<StudioError> {
    return this.#ended.promise;
  }

  /**
   * Calls a method of the worker's owner. Objects marked by `Comlink.transfer` are moved, functions marked by
   * `Comlink.proxy` can be called from there.
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
      throw new StudioError('worker_failed', `The ${this.#name} does not know "${method}"; reload the page.`);
    }
    const { promise, resolve, reject } = deferred<unknown>();
    this.#waiting.add(reject);
    try {
      const answer = this.#remote[method];
      answer(...args).then(resolve, reject);
      return (await promise) as Awaited<ReturnType<Api[M]>>;
    } catch (error) {
      throw StudioError.from(error);
    } finally {
      this.#waiting.delete(reject);
    }
  }

  /** Ends the worker at once; calls that are waiting reject with `reason`. */
  terminate(
    reason = new StudioError('worker_failed', `The ${this.#name} was stopped; try again.`, { retry: 'same' }),
  ): void {
    if (this.#failure) {
      return;
    }
    this.#failure = reason;
    this.#watch.abort();
    this.#worker.terminate();
    this.#ready.reject(reason);
    this.#waiting.forEach((reject) => reject(reason));
    this.#waiting.clear();
    this.#ended.resolve(reason);
  }

  #fail(message: string, cause?: string): void {
    this.terminate(new StudioError('worker_failed', message, { retry: 'same', cause: cause || undefined }));
  }

  #onSignal(signal: WorkerSignal | null): void {
    if (signal?.darkroom === 'ready') {
      this.#ready.resolve(signal.methods);
      if (signal.lock !== null) {
        this.#awaitDeath(signal.lock);
      }
    } else if (signal?.darkroom === 'unreadable') {
      this.#fail(`The ${this.#name} was sent something that this browser cannot pass on; reload the page.`);
    }
  }

  /** The lock comes to us when the worker that held it is gone. */
  #awaitDeath(lock: string): void {
    navigator.locks
      .request(lock, { signal: this.#watch.signal }, () => {
        this.#fail(`The ${this.#name} stopped unexpectedly; try again.`);
      })
      .catch(() => {
        // Our own `terminate` withdrew the request.
      });
  }
}
