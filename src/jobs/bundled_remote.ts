/** The page's worker for other machines, loaded by who first needs it. */
import type { TaskApi } from '../../workers/generation_api.ts';
import script from '../../workers/remote.worker.ts?worker&url';
import { RemoteWorkers } from './remote_workers.ts';
import type { WorkerLink } from './worker_link.ts';

/**
 * The script's URL contains the origins of the servers, and whoever serves the page responds with a policy that admits only those
 * (`cli/headers.js`, the service worker).
 */
export function bundledRemote(connect: (link: WorkerLink<TaskApi>) => Promise<void>): RemoteWorkers {
  return new RemoteWorkers(connect, (origins) => {
    const url = new URL(script, location.href);
    // With no servers, an explicit empty list; without it, the worker would get the page's policy.
    (origins.length > 0 ? origins : ['']).forEach((origin) => url.searchParams.append('connect', origin));
    return new Worker(url, { type: 'module' });
  });
}
