/**
 * A small file that says what a database holds. Database and files are lost apart from each other, so that either can tell that the other
 * was emptied (see torn_log.ts).
 */
import { defaultFiles, recordingsFiles } from './private_files.ts';
import type { Place } from './private_files.ts';
import { filesAreSafe } from './torn_log.ts';

export interface Witness {
  /** What was written last, unchecked; undefined where there is nothing, or no storage. */
  read(): Promise<unknown>;
  /** Never rejects: what cannot be witnessed is stored all the same. */
  write(value: unknown): Promise<void>;
}

/** After so many milliseconds the file system is taken to be stuck: removing a checkpoint once waited for its witness for minutes. */
const PATIENCE_MS = 10_000;

/** In `witness/<name>.json`, beside the recordings. */
export function witnessFile(name: string): Witness {
  const file = `${name}.json`;
  let last: Promise<unknown> = Promise.resolve();
  const read = async (): Promise<unknown> => {
    try {
      const folder = await witnesses();
      // The browser's own, for what was being written when it was killed.
      for await (const left of folder.keys()) {
        if (left.startsWith(file) && left.endsWith('.crswap')) {
          await folder.removeEntry(left).catch(() => undefined);
        }
      }
      return JSON.parse(await (await (await folder.getFileHandle(file)).getFile()).text()) as unknown;
    } catch {
      return undefined;
    }
  };
  return {
    read: () => Promise.race([read(), patience()]),
    write: (value) => {
      const written = last.then(async () => {
        const stream = await (await (await witnesses()).getFileHandle(file, { create: true })).createWritable();
        // What is written becomes visible when it is closed, so it is whole or not there.
        await stream.write(JSON.stringify(value));
        await stream.close();
      });
      last = Promise.race([written.catch(() => undefined), patience()]);
      return last.then(() => undefined);
    },
  };
}

function patience(): Promise<void> {
  return new Promise((over) => setTimeout(over, PATIENCE_MS));
}

async function witnesses(): Promise<FileSystemDirectoryHandle> {
  const bucket = await recordingsFiles().catch(() => null);
  const place: Place = bucket ? 'recordings' : 'default';
  const root = bucket ?? (await defaultFiles());
  await filesAreSafe(place, root);
  return root.getDirectoryHandle('witness', { create: true });
}
