/** The files of a checkpoint source, for workers that read checkpoints. */
import { FolderFiles, ServedFiles, type CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { browserNetwork } from '../src/weights/library/browser_surroundings.ts';
import { IndexedKeyValues, MemoryKeyValues } from '../src/weights/library/key_values.ts';
import { RemoteFiles } from '../src/weights/library/remote_files.ts';
import { Requests } from '../src/weights/library/requests.ts';
import { LibraryStore } from '../src/weights/library/store.ts';
import { StoredFiles } from '../src/weights/library/stored_files.ts';
import { systemClock } from '../src/weights/library/surroundings.ts';
import { transformMakers } from '../src/weights/quantise.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';

/** The library worker's database, to which only that worker writes files. */
export const library = new LibraryStore('indexedDB' in globalThis ? new IndexedKeyValues() : new MemoryKeyValues());
let requests: Requests | null = null;

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `storage_unavailable` */
export async function filesOf(source: CheckpointSource): Promise<CheckpointFiles> {
  switch (source.kind) {
    case 'builtin': {
      const base = source.base ?? new URL(`${import.meta.env.BASE_URL}checkpoints/`, self.location.origin).href;
      return ServedFiles.open(`builtin:${source.name}`, new URL(`${encodeURIComponent(source.name)}/`, base));
    }
    case 'served':
      return ServedFiles.open(`folder:${source.name}`, new URL(source.base));
    case 'folder':
      return new FolderFiles(source.name, source.files);
    case 'stored': {
      const files = await StoredFiles.open(library, source.ref, transformMakers);
      await library.changeManifest(source.ref, { usedAt: Date.now() });
      return files;
    }
    case 'remote':
      requests ??= new Requests(browserNetwork(self.location.href), systemClock);
      return new RemoteFiles(requests, source.listing, source.token);
  }
}
