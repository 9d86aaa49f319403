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

const BUCKET = 'recordings';

/**
 * A bucket of its own, where there are any, is flushed strictly and not evicted with the weights. Earlier recordings lie outside of it.
 * Rejects where the browser has no such storage.
 * @param open makes a store of a folder; the name tells the two file systems apart
 */
export async function browserStore(
  open: (root: FileSystemDirectoryHandle, place: string) => Promise<FileStore>,
): Promise<FileStore> {
  const { storageBuckets } = navigator as { storageBuckets?: StorageBuckets };
  const [root, bucket] = await Promise.all([
    navigator.storage.getDirectory().then((folder) => open(folder, 'default')),
    storageBuckets
      ?.open(BUCKET, { durability: 'strict' })
      .then(async (opened) => open(await opened.getDirectory(), BUCKET))
      .catch(() => null),
  ]);
  return bucket ? new UnitedFileStore(bucket, root) : root;
}
