/** The database under the library: keys and values, changed all together or not at all. */
import { promisifyRequest, type UseStore } from 'idb-keyval';
import { StudioError } from '../../core/errors.ts';
import { openStore } from '../../storage/database.ts';
import { databaseIsSafeAgain } from '../../storage/torn_log.ts';

export interface KeyValues {
  /** The values in the order of their keys, undefined where there is none. */
  read(keys: readonly string[]): Promise<unknown[]>;
  /** Puts and deletes in one transaction: a crash or a full disk leaves everything as it was. */
  write(puts: readonly (readonly [key: string, value: unknown])[], deletions?: readonly string[]): Promise<void>;
  /** Replaces one value by what `change` makes of it, in one transaction; undefined leaves it as it is. */
  update(key: string, change: (value: unknown) => unknown): Promise<void>;
  /** All keys that begin so. */
  keys(prefix: string): Promise<string[]>;
  /** Called before much is written. */
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
      // First, so that a full disk has the room.
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
    // U+FFFF sorts after every character that a key can go on with.
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
        // Browsers close connections when they like (Safari, and Firefox near its quota); a new one is asked for once.
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

/** What a storage failure means for the person. */
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
