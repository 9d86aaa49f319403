/** What the page itself keeps beside the library: handles of folders, and the hub token if somebody asks for that. */
import { del, get, set } from 'idb-keyval';
import type { UseStore } from 'idb-keyval';
import { openStore } from '../../storage/database.ts';

let store: UseStore | undefined;

function kept(): UseStore {
  store ??= openStore('darkroom-kept', 'kept');
  return store;
}

/** What was kept under this key, unchecked; undefined when there is nothing or storage is blocked. */
export async function readKept(key: string): Promise<unknown> {
  try {
    return await get(key, kept());
  } catch {
    return undefined;
  }
}

/** @throws DOMException where storage is blocked or full */
export function keep(key: string, value: unknown): Promise<void> {
  return set(key, value, kept());
}

export function forget(key: string): Promise<void> {
  return del(key, kept());
}
