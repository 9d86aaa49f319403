/** Opens IndexedDB for all parts of the page: once it is safe to store there, and again whenever the browser closes it. */
import { promisifyRequest, type UseStore } from 'idb-keyval';
import { databaseIsSafe, databaseIsSafeAgain } from './torn_log.ts';

/** One object store in a database of its own, opened on first use; for idb-keyval's functions, or custom transactions. */
export function openStore(database: string, objectStore: string): UseStore {
  let opened: Promise<IDBDatabase> | null = null;
  const connect = async () => {
    await databaseIsSafe();
    const request = indexedDB.open(database);
    request.onupgradeneeded = () => request.result.createObjectStore(objectStore);
    const connection = await promisifyRequest(request);
    // Happens in Safari, on a full disk, and when the storage process dies.
    connection.onclose = () => {
      opened = null;
      void databaseIsSafeAgain();
    };
    return connection;
  };
  return async (mode, work) => {
    opened ??= connect();
    const connecting = opened;
    connecting.catch(() => {
      if (opened === connecting) {
        opened = null;
      }
    });
    return work((await connecting).transaction(objectStore, mode).objectStore(objectStore));
  };
}
