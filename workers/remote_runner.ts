/** What `remote.worker.ts` serves: jobs with a step on another machine, and questions to its servers. */
import type { EngineFacts, Probe, RemoteServer } from '../src/core/remote.ts';
import { engineFacts, probeServer } from '../src/engines/engine.ts';
import { serve } from './connection.ts';
import type { RemoteApi } from './generation_api.ts';
import { TaskRunner } from './task_runner.ts';

class RemoteWorker extends TaskRunner implements RemoteApi {
  engines(): Promise<EngineFacts[]> {
    return engineFacts();
  }

  probe(server: RemoteServer, key: string | null): Promise<Probe> {
    const { signal } = new AbortController();
    return probeServer(server, { key, origin: self.location.origin, signal });
  }
}

void serve(new RemoteWorker(), self);
