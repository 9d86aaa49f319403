/** What the page itself stores besides the library: handles of folders, and the hub token on request. */
import { del, get, set } from 'idb-keyval';
import type { UseStore } from 'idb-keyval';
import { openStore } from '../../storage/database.ts';

let store: UseStore | undefined;

function kept(): UseStore {
  store ??= openStore('darkroom-kept', 'kept');
  return store;
}

/** The value stored under this key, unvalidated; undefined if there is none or storage is blocked. */
export async function readKept(key: string): Promise<unknown> {
  try {
    return await get(key, kept());
  } catch {
    return undefined;
  }
}

/** @throws DOMException if storage is blocked or full */
export function keep(key: string, value: unknown): Promise<void> {
  return set(key, value, kept());
}

export function forget(key: string): Promise<void> {
  return del(key, kept());
}
