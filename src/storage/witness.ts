/**
 * A small file that records what a database contains. Database and files are lost independently, so either can show that the other was
 * emptied (see torn_log.ts).
 */
import { defaultFiles, recordingsFiles } from './private_files.ts';
import type { Place } from './private_files.ts';
import { filesAreSafe } from './torn_log.ts';

export interface Witness {
  /** The last written value, unvalidated; undefined if there is none, or no storage. */
  read(): Promise<unknown>;
  /** Never rejects, since storing must work without a witness. */
  write(value: unknown): Promise<void>;
}

/** After this many milliseconds the file system counts as stuck: removing a checkpoint once waited minutes for its witness. */
const PATIENCE_MS = 10_000;
const FOLDER = 'witness';

/** In `witness/<name>.json`, beside the recordings. */
export function witnessFile(name: string): Witness {
  const file = `${name}.json`;
  let last: Promise<unknown> = Promise.resolve();
  const read = async (): Promise<unknown> => {
    try {
      // Changes nothing, so it need not wait until it is safe to store.
      const folder = await (await witnessPlace()).root.getDirectoryHandle(FOLDER);
      return JSON.parse(await (await (await folder.getFileHandle(file)).getFile()).text()) as unknown;
    } catch {
      return undefined;
    }
  };
  return {
    read: () => Promise.race([read(), patience()]),
    write: (value) => {
      const written = last.then(async () => {
        const { place, root } = await witnessPlace();
        await filesAreSafe(place, root);
        const folder = await root.getDirectoryHandle(FOLDER, { create: true });
        // Left by the browser if it was killed while writing.
        for await (const left of folder.keys()) {
          if (left.startsWith(file) && left.endsWith('.crswap')) {
            await folder.removeEntry(left).catch(() => undefined);
          }
        }
        const stream = await (await folder.getFileHandle(file, { create: true })).createWritable();
        // The content becomes visible when the stream is closed, so it is either whole or absent.
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

async function witnessPlace(): Promise<{ place: Place; root: FileSystemDirectoryHandle }> {
  const bucket = await recordingsFiles().catch(() => null);
  return bucket ? { place: 'recordings', root: bucket } : { place: 'default', root: await defaultFiles() };
}
