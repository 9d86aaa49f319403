/** A Darkroom in a page: its workers come from the package's files, whichever origin those are of. */
import { startWorker } from '../../workers/connection.ts';
import type { DarkroomOptions } from './contract.ts';
import { Instance, onlyInPage } from './instance.ts';

/** @param folder of the package's files, an address that ends in a slash */
export function openInBrowser(
  folder: string,
  { backend, threads, checkpoints, recordings = false, servers = [] }: Omit<DarkroomOptions, 'base'>,
): Instance {
  if (servers.length > 0) {
    throw onlyInPage();
  }
  const worker = (name: string) => () => startWorker(new URL(`workers/${name}.js`, folder).href);
  return new Instance(
    {
      workers: {
        generation: worker('generation'),
        task: worker('task'),
        recorder: worker(recordings === 'opfs' ? 'recorder' : 'memory_recorder'),
        language: worker('language'),
        remote: () => Promise.reject(onlyInPage()),
      },
      library: worker('library'),
      start: {
        backend: backend ?? 'auto',
        threads: threads === undefined ? null : String(threads),
        runtimeFiles: new URL('ort/', folder).href,
      },
      builtin: new URL('checkpoints/', folder).href,
      keepsRuns: recordings === 'opfs',
    },
    checkpoints,
  );
}
