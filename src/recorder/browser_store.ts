/** Where a browser keeps recordings. */
import { defaultFiles, recordingsFiles } from '../storage/private_files.ts';
import type { Place } from '../storage/private_files.ts';
import type { FileStore } from './file_store.ts';
import { UnitedFileStore } from './united_file_store.ts';

/**
 * New recordings go into a storage bucket, if the browser has them; earlier ones are outside it. Rejects if the browser has no such
 * storage. The store is not whole if its bucket cannot be opened, since recordings there are then invisible.
 * @param open creates a store for a folder
 */
export async function browserStore(
  open: (root: FileSystemDirectoryHandle, place: Place) => Promise<FileStore>,
): Promise<{ store: FileStore; isWhole: boolean }> {
  const [root, bucket] = await Promise.all([
    defaultFiles().then((folder) => open(folder, 'default')),
    recordingsFiles()
      .then(async (folder) => (folder ? { store: await open(folder, 'recordings') } : ('none' as const)))
      .catch(() => null),
  ]);
  if (bucket === 'none') {
    return { store: root, isWhole: true };
  }
  return bucket ? { store: new UnitedFileStore(bucket.store, root), isWhole: true } : { store: root, isWhole: false };
}
