/** The file system that only this page sees. */

/** Storage Buckets, which only some browsers have and TypeScript does not know. */
interface StorageBuckets {
  open(
    name: string,
    options: { durability: 'strict' },
  ): Promise<{ getDirectory(): Promise<FileSystemDirectoryHandle> }>;
}

/** Names a file system, for {@link filesAreSafe}. */
export type Place = 'recordings' | 'default';

/** Rejects where the browser has no such storage. */
export function defaultFiles(): Promise<FileSystemDirectoryHandle> {
  return navigator.storage.getDirectory();
}

/** A bucket of its own, flushed strictly and not evicted with the weights; null where there are no buckets. */
export async function recordingsFiles(): Promise<FileSystemDirectoryHandle | null> {
  const { storageBuckets } = navigator as { storageBuckets?: StorageBuckets };
  const bucket = await storageBuckets?.open('recordings', { durability: 'strict' });
  return bucket ? bucket.getDirectory() : null;
}
