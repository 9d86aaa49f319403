/** The recorder's worker: opens the browser's private storage and serves one recorder to page and generator. */
import { StudioError } from '../src/core/errors.ts';
import { MemoryFileStore } from '../src/recorder/memory_file_store.ts';
import { OpfsFileStore } from '../src/recorder/opfs_file_store.ts';
import { Recorder } from '../src/recorder/recorder.ts';
import type { RecorderApi, StorageReport } from './protocol.ts';
import { serve, serveOn } from './protocol.ts';

class RecorderOwner implements RecorderApi {
  readonly #opened = open();

  connect(port: MessagePort): Promise<void> {
    serveOn(port, this);
    return Promise.resolve();
  }

  async storage(): Promise<StorageReport> {
    return (await this.#opened).report;
  }

  async openRun(...args: Parameters<RecorderApi['openRun']>) {
    return (await this.#recorder()).openRun(...args);
  }

  async saveEntity(...args: Parameters<RecorderApi['saveEntity']>) {
    return (await this.#recorder()).saveEntity(...args);
  }

  async closeRun(...args: Parameters<RecorderApi['closeRun']>) {
    return (await this.#recorder()).closeRun(...args);
  }

  async listRuns(...args: Parameters<RecorderApi['listRuns']>) {
    return (await this.#recorder()).listRuns(...args);
  }

  async readRun(...args: Parameters<RecorderApi['readRun']>) {
    return (await this.#recorder()).readRun(...args);
  }

  async readEntity(...args: Parameters<RecorderApi['readEntity']>) {
    return (await this.#recorder()).readEntity(...args);
  }

  async deleteRun(...args: Parameters<RecorderApi['deleteRun']>) {
    return (await this.#recorder()).deleteRun(...args);
  }

  async #recorder(): Promise<Recorder> {
    return (await this.#opened).recorder;
  }
}

async function open(): Promise<{ recorder: Recorder; report: StorageReport }> {
  try {
    return { recorder: new Recorder(await OpfsFileStore.open()), report: { persistent: true, note: null } };
  } catch (cause) {
    const refusal = new StudioError(
      'storage_unavailable',
      'This browser gives the page no storage (a private window often does not), so recordings last only for this visit; download what you want to keep.',
      { cause },
    );
    return { recorder: new Recorder(new MemoryFileStore()), report: { persistent: false, note: refusal.message } };
  }
}

await serve(new RecorderOwner(), globalThis);
