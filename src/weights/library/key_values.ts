/** The library's database: keys and values with atomic changes. */
import { promisifyRequest, type UseStore } from 'idb-keyval';
import { StudioError } from '../../core/errors.ts';
import { openStore } from '../../storage/database.ts';
import { databaseIsSafeAgain } from '../../storage/torn_log.ts';

export interface KeyValues {
  /** The values in the order of their keys; undefined for missing ones. */
  read(keys: readonly string[]): Promise<unknown[]>;
  /** Puts and deletes in one transaction: a crash or a full disk leaves everything as it was. */
  write(puts: readonly (readonly [key: string, value: unknown])[], deletions?: readonly string[]): Promise<void>;
  /** Replaces one value by the result of `change` in one transaction; undefined leaves it unchanged. */
  update(key: string, change: (value: unknown) => unknown): Promise<void>;
  /** All keys with this prefix. */
  keys(prefix: string): Promise<string[]>;
  /** Called before large writes. */
  prepare(): Promise<void>;
}

export const DATABASE = 'darkroom-library';
const OBJECT_STORE = 'library';

/** IndexedDB. Errors: `storage_full`, `storage_unavailable`. */
export class IndexedKeyValues implements KeyValues {
  #store: UseStore | null = null;

  read(keys: readonly string[]): Promise<unknown[]> {
    return this.#within('readonly', (store) =>
      Promise.all(keys.map((key) => promisifyRequest<unknown>(store.get(key)))),
    );
  }

  write(puts: readonly (readonly [string, unknown])[], deletions: readonly string[] = []): Promise<void> {
    return this.#within('readwrite', (store) => {
      // First, so that a full disk has room.
      deletions.forEach((key) => store.delete(key));
      puts.forEach(([key, value]) => store.put(value, key));
      return promisifyRequest(store.transaction);
    });
  }

  update(key: string, change: (value: unknown) => unknown): Promise<void> {
    return this.#within('readwrite', (store) => {
      const request = store.get(key);
      request.onsuccess = () => {
        const value = change(request.result);
        if (value !== undefined) {
          store.put(value, key);
        }
      };
      return promisifyRequest(store.transaction);
    });
  }

  async keys(prefix: string): Promise<string[]> {
    // U+FFFF sorts after every character that can follow in a key.
    const range = IDBKeyRange.bound(prefix, `${prefix}\uffff`);
    const keys = await this.#within('readonly', (store) => promisifyRequest(store.getAllKeys(range)));
    return keys.filter((key) => typeof key === 'string');
  }

  prepare(): Promise<void> {
    return databaseIsSafeAgain();
  }

  async #within<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => Promise<T>): Promise<T> {
    try {
      try {
        return await this.#use(mode, work);
      } catch (error) {
        // Browsers may close connections at any time (Safari, and Firefox near its quota); retry once with a new one.
        if (nameOf(error) !== 'InvalidStateError') {
          throw error;
        }
        this.#store = null;
        return await this.#use(mode, work);
      }
    } catch (error) {
      throw storageError(error);
    }
  }

  #use<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => Promise<T>): Promise<T> {
    this.#store ??= openStore(DATABASE, OBJECT_STORE);
    return this.#store(mode, work);
  }
}

/** For programs without a database, such as those of Node. */
export class MemoryKeyValues implements KeyValues {
  readonly #values = new Map<string, unknown>();

  read(keys: readonly string[]): Promise<unknown[]> {
    return Promise.resolve(keys.map((key) => this.#values.get(key)));
  }

  write(puts: readonly (readonly [string, unknown])[], deletions: readonly string[] = []): Promise<void> {
    deletions.forEach((key) => this.#values.delete(key));
    puts.forEach(([key, value]) => this.#values.set(key, value));
    return Promise.resolve();
  }

  update(key: string, change: (value: unknown) => unknown): Promise<void> {
    const value = change(this.#values.get(key));
    return value === undefined ? Promise.resolve() : this.write([[key, value]]);
  }

  keys(prefix: string): Promise<string[]> {
    return Promise.resolve([...this.#values.keys()].filter((key) => key.startsWith(prefix)));
  }

  prepare(): Promise<void> {
    return Promise.resolve();
  }
}

/** Explains a storage failure to the person. */
export function storageError(error: unknown): StudioError {
  if (error instanceof StudioError) {
    return error;
  }
  const name = nameOf(error);
  // Chrome has been seen to abort a transaction without a reason near its quota.
  if (name === 'QuotaExceededError' || name === 'AbortError' || error === null) {
    return new StudioError(
      'storage_full',
      'There is no room left for this page on the disk; delete a checkpoint or free some space, then resume.',
      { retry: 'same', cause: error },
    );
  }
  return new StudioError(
    'storage_unavailable',
    'This browser does not let the page store checkpoints (a private window often does not); use a normal window, or open a folder from disk.',
    { cause: error },
  );
}

function nameOf(error: unknown): string {
  return typeof error === 'object' && error !== null ? String((error as { name?: unknown }).name) : '';
}
