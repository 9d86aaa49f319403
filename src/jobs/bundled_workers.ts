/** The workers as they are built with the page, from its own origin. */
import { JobClient, inBrowser } from './client.ts';
import { LibraryClient } from './library.ts';
import { WorkerPair } from './worker_pair.ts';
import type { WorkerMaker } from './worker_pair.ts';

const bundled: WorkerMaker = {
  generation: () => new Worker(new URL('../../workers/generation.worker.ts', import.meta.url), { type: 'module' }),
  task: () => new Worker(new URL('../../workers/task.worker.ts', import.meta.url), { type: 'module' }),
  recorder: () => new Worker(new URL('../../workers/recorder.worker.ts', import.meta.url), { type: 'module' }),
  language: () => new Worker(new URL('../../workers/language.worker.ts', import.meta.url), { type: 'module' }),
  remote: async (connect) => (await import('./bundled_remote.ts')).bundledRemote(connect),
};

const library = () => new Worker(new URL('../../workers/library.worker.ts', import.meta.url), { type: 'module' });

/** The page's client, whose jobs and recordings all tabs of this browser share. */
export function pageClient(): JobClient {
  const workers = new WorkerPair(bundled);
  return new JobClient(workers, new LibraryClient(library), inBrowser(workers));
}
