/** Where the queue's records are stored: IndexedDB, or memory if the browser keeps nothing. */
import { promisifyRequest } from 'idb-keyval';
import type { UseStore } from 'idb-keyval';
import { StudioError } from '../core/errors.ts';
import { openStore } from '../storage/database.ts';

/** Key → value; undefined removes the key. */
export type Writes = ReadonlyMap<string, unknown>;

/** Errors are StudioErrors: `storage_full`, `storage_unavailable`. */
export interface JobStore {
  /** Everything whose key begins with `prefix`, by key. */
  readAll(prefix: string): Promise<Map<string, unknown>>;
  /** Undefined where there is nothing. */
  read(keys: readonly string[]): Promise<unknown[]>;
  /**
   * One transaction: no other tab can interleave, and either everything is written or nothing.
   * @param decide gets the values of `keys`; if it throws, nothing is written
   */
  change(keys: readonly string[], decide: (values: unknown[]) => Writes): Promise<void>;
}

const DATABASE = 'darkroom-jobs';

export class IndexedJobStore implements JobStore {
  readonly #use: UseStore;

  constructor(database = DATABASE) {
    this.#use = openStore(database, 'jobs');
  }

  async readAll(prefix: string): Promise<Map<string, unknown>> {
    const range = IDBKeyRange.bound(prefix, `${prefix}\uffff`);
    const [keys, values] = await this.#run('readonly', (store) =>
      Promise.all([promisifyRequest(store.getAllKeys(range)), promisifyRequest(store.getAll(range))]),
    );
    return new Map(keys.map((key, i) => [key as string, values[i] as unknown]));
  }

  read(keys: readonly string[]): Promise<unknown[]> {
    return this.#run('readonly', (store) => valuesOf(store, keys));
  }

  change(keys: readonly string[], decide: (values: unknown[]) => Writes): Promise<void> {
    return this.#run('readwrite', async (store) => {
      const ended = promisifyRequest(store.transaction);
      try {
        for (const [key, value] of decide(await valuesOf(store, keys))) {
          if (value === undefined) {
            store.delete(key);
          } else {
            store.put(value, key);
          }
        }
      } catch (error) {
        ended.catch(() => undefined);
        store.transaction.abort();
        throw error;
      }
      await ended;
    });
  }

  async #run<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => Promise<T>): Promise<T> {
    try {
      return await this.#use(mode, work);
    } catch (error) {
      throw storageError(error);
    }
  }
}

export class MemoryJobStore implements JobStore {
  readonly #values = new Map<string, unknown>();

  readAll(prefix: string): Promise<Map<string, unknown>> {
    return Promise.resolve(new Map([...this.#values].filter(([key]) => key.startsWith(prefix))));
  }

  read(keys: readonly string[]): Promise<unknown[]> {
    return Promise.resolve(keys.map((key) => this.#values.get(key)));
  }

  change(keys: readonly string[], decide: (values: unknown[]) => Writes): Promise<void> {
    return new Promise((written) => {
      for (const [key, value] of decide(keys.map((key) => this.#values.get(key)))) {
        if (value === undefined) {
          this.#values.delete(key);
        } else {
          this.#values.set(key, value);
        }
      }
      written();
    });
  }
}

function valuesOf(store: IDBObjectStore, keys: readonly string[]): Promise<unknown[]> {
  return Promise.all(keys.map((key) => promisifyRequest<unknown>(store.get(key))));
}

function storageError(error: unknown): unknown {
  if (error instanceof StudioError || !(error instanceof DOMException)) {
    return error;
  }
  return error.name === 'QuotaExceededError'
    ? new StudioError(
        'storage_full',
        'There is no space left to keep this job; delete pictures or checkpoints that you no longer need, then try again.',
        { retry: 'same', cause: error },
      )
    : new StudioError('storage_unavailable', 'The browser did not keep the queue; reload the page and try again.', {
        retry: 'same',
        cause: error,
      });
}
