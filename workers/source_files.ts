/** The files that a source speaks of, for workers that read checkpoints. */
import { FolderFiles, ServedFiles, type CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { browserNetwork } from '../src/weights/library/browser_surroundings.ts';
import { IndexedKeyValues } from '../src/weights/library/key_values.ts';
import { RemoteFiles } from '../src/weights/library/remote_files.ts';
import { Requests } from '../src/weights/library/requests.ts';
import { LibraryStore } from '../src/weights/library/store.ts';
import { StoredFiles } from '../src/weights/library/stored_files.ts';
import { systemClock } from '../src/weights/library/surroundings.ts';
import { transformMakers } from '../src/weights/quantise.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';

/** The same database as the library worker's, which alone writes files there. */
export const library = new LibraryStore(new IndexedKeyValues());
const requests = new Requests(browserNetwork(self.location.href), systemClock);

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `storage_unavailable` */
export async function filesOf(source: CheckpointSource): Promise<CheckpointFiles> {
  switch (source.kind) {
    case 'builtin':
      return ServedFiles.open(
        `builtin:${source.name}`,
        new URL(`${import.meta.env.BASE_URL}checkpoints/${encodeURIComponent(source.name)}/`, self.location.origin),
      );
    case 'folder':
      return new FolderFiles(source.name, source.files);
    case 'stored': {
      const files = await StoredFiles.open(library, source.ref, transformMakers);
      await library.changeManifest(source.ref, { usedAt: Date.now() });
      return files;
    }
    case 'remote':
      return new RemoteFiles(requests, source.listing, source.token);
  }
}
