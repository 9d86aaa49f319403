/** The library's worker: the only one that downloads, and one of two that read stored files (the other is the generation worker). */
import { witnessFile } from '../src/storage/witness.ts';
import {
  browserChannel,
  browserLocks,
  browserNetwork,
  browserStorage,
} from '../src/weights/library/browser_surroundings.ts';
import { IndexedKeyValues } from '../src/weights/library/key_values.ts';
import { Library } from '../src/weights/library/library.ts';
import { systemClock } from '../src/weights/library/surroundings.ts';
import { transformMakers } from '../src/weights/quantise.ts';
import { serve } from './connection.ts';
import type { LibraryApi } from '../src/weights/library/library_api.ts';

class LibraryWorker extends Library implements LibraryApi {
  constructor() {
    super({
      values: new IndexedKeyValues(),
      witness: witnessFile('library'),
      network: browserNetwork(self.location.href),
      clock: systemClock,
      locks: browserLocks(),
      channel: browserChannel(),
      storage: browserStorage,
      makers: transformMakers,
    });
  }
}

await serve(new LibraryWorker(), globalThis);
