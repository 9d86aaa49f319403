/** What `remote.worker.ts` runs. */
import { serve } from './connection.ts';
import { RemoteOwner } from './remote_owner.ts';

void serve(new RemoteOwner(), self);
