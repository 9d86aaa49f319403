/** IndexedDB as all parts of the page open it: when it is safe to store there, and anew when the browser closes it. */
import { promisifyRequest, type UseStore } from 'idb-keyval';
import { databaseIsSafe, databaseIsSafeAgain } from './torn_log.ts';

/** One object store in a database of its own, opened by the first use; for idb-keyval's functions, or transactions of one's own. */
export function openStore(database: string, objectStore: string): UseStore {
  let opened: Promise<IDBDatabase> | null = null;
  const connect = async () => {
    await databaseIsSafe();
    const request = indexedDB.open(database);
    request.onupgradeneeded = () => request.result.createObjectStore(objectStore);
    const connection = await promisifyRequest(request);
    // Safari and a full disk do this, and the end of the process that holds the data.
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
