/** Where a browser keeps recordings. */
import { defaultFiles, recordingsFiles } from '../storage/private_files.ts';
import type { Place } from '../storage/private_files.ts';
import type { FileStore } from './file_store.ts';
import { UnitedFileStore } from './united_file_store.ts';

/**
 * New recordings go into a bucket of their own, where there are any; earlier ones lie outside of it. Rejects where the browser has no such
 * storage. Not whole is a store whose bucket cannot be opened: what lies there is not seen then.
 * @param open makes a store of a folder
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
