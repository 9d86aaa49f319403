/** Where a browser keeps recordings. */
import type { FileStore } from './file_store.ts';
import { UnitedFileStore } from './united_file_store.ts';

/** Storage Buckets, which only some browsers have and TypeScript does not know. */
interface StorageBuckets {
  open(
    name: string,
    options: { durability: 'strict' },
  ): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }>;
}

/**
 * A bucket of its own, where there are any, is flushed strictly and not evicted with the weights. Earlier recordings lie outside of it.
 * Rejects where the browser has no such storage.
 * @param open makes a store of a folder
 */
export async function browserStore(open: (root: FileSystemDirectoryHandle) => Promise<FileStore>): Promise<FileStore> {
  const root = await open(await navigator.storage.getDirectory());
  const { storageBuckets } = navigator as { storageBuckets?: StorageBuckets };
  const bucket = await storageBuckets
    ?.open('recordings', { durability: 'strict' })
    .then(async (opened) => open(await opened.getDirectory()))
    .catch(() => null);
  return bucket ? new UnitedFileStore(bucket, root) : root;
}
