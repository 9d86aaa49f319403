/** A recorder that keeps nothing beyond the visit. */
import { MemoryFileStore } from '../../recorder/memory_file_store.ts';
import { Recorder } from '../../recorder/recorder.ts';
import { serve } from '../../../workers/connection.ts';
import { RecorderOwner } from '../../../workers/recorder_owner.ts';

const opened = { recorder: new Recorder(new MemoryFileStore()), report: { persistent: false, note: null } };

await serve(new RecorderOwner(() => Promise.resolve(opened)), globalThis);
