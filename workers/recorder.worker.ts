/** The recorder's worker: opens the browser's private storage and serves one recorder to page and generator. */
import { StudioError } from '../src/core/errors.ts';
import { browserStore } from '../src/recorder/browser_store.ts';
import { MemoryLocks, WebLocks } from '../src/recorder/locks.ts';
import { MemoryFileStore } from '../src/recorder/memory_file_store.ts';
import { OpfsFileStore } from '../src/recorder/opfs_file_store.ts';
import { Recorder } from '../src/recorder/recorder.ts';
import { filesAreSafe } from '../src/storage/torn_log.ts';
import { serve, serveOn } from './connection.ts';
import type { RecorderApi, StorageReport } from '../src/recorder/recorder_api.ts';
import './media_files.ts';

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

  async resumeRun(...args: Parameters<RecorderApi['resumeRun']>) {
    return (await this.#recorder()).resumeRun(...args);
  }

  async saveEntity(...args: Parameters<RecorderApi['saveEntity']>) {
    return (await this.#recorder()).saveEntity(...args);
  }

  async saveFromBlob(...args: Parameters<RecorderApi['saveFromBlob']>) {
    return (await this.#recorder()).saveFromBlob(...args);
  }

  async saveFromUrl(...args: Parameters<RecorderApi['saveFromUrl']>) {
    return (await this.#recorder()).saveFromUrl(...args);
  }

  async closeRun(...args: Parameters<RecorderApi['closeRun']>) {
    return (await this.#recorder()).closeRun(...args);
  }

  async listRuns(...args: Parameters<RecorderApi['listRuns']>) {
    return (await this.#recorder()).listRuns(...args);
  }

  async lostRuns() {
    return (await this.#recorder()).lostRuns();
  }

  async forgetLost(...args: Parameters<RecorderApi['forgetLost']>) {
    return (await this.#recorder()).forgetLost(...args);
  }

  async findRuns(...args: Parameters<RecorderApi['findRuns']>) {
    return (await this.#recorder()).findRuns(...args);
  }

  async readRun(...args: Parameters<RecorderApi['readRun']>) {
    return (await this.#recorder()).readRun(...args);
  }

  async readEntity(...args: Parameters<RecorderApi['readEntity']>) {
    return (await this.#recorder()).readEntity(...args);
  }

  async starRun(...args: Parameters<RecorderApi['starRun']>) {
    return (await this.#recorder()).starRun(...args);
  }

  async deleteRun(...args: Parameters<RecorderApi['deleteRun']>) {
    return (await this.#recorder()).deleteRun(...args);
  }

  async importRun(...args: Parameters<RecorderApi['importRun']>) {
    return (await this.#recorder()).importRun(...args);
  }

  async outdatedRuns(...args: Parameters<RecorderApi['outdatedRuns']>) {
    return (await this.#recorder()).outdatedRuns(...args);
  }

  async retention() {
    return (await this.#recorder()).retention();
  }

  async setRetention(...args: Parameters<RecorderApi['setRetention']>) {
    return (await this.#recorder()).setRetention(...args);
  }

  async #recorder(): Promise<Recorder> {
    return (await this.#opened).recorder;
  }
}

const NOT_WHOLE =
  'The browser does not open the place where the recordings lie, so most of them are not shown now; they are not deleted. Reload the page, or start the browser anew; what you make meanwhile is kept beside them.';

/** Of the longer side, in pixels. */
const THUMBNAIL = 96;

/** About two kilobytes. */
async function thumbnail(picture: Blob): Promise<string> {
  const bitmap = await createImageBitmap(picture);
  const shrink = THUMBNAIL / Math.max(bitmap.width, bitmap.height, THUMBNAIL);
  const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * shrink), Math.ceil(bitmap.height * shrink));
  canvas.getContext('2d')?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const small = await canvas.convertToBlob({ type: 'image/webp', quality: 0.7 });
  const bytes = new Uint8Array(await small.arrayBuffer());
  return `data:${small.type};base64,${btoa(String.fromCharCode(...bytes))}`;
}

async function open(): Promise<{ recorder: Recorder; report: StorageReport }> {
  const opened = await browserStore(async (root, place) => {
    await filesAreSafe(place, root);
    return OpfsFileStore.open(root);
  }).then(
    ({ store, isWhole }) => ({
      recorder: new Recorder(store, undefined, {
        locks: 'locks' in navigator ? new WebLocks(navigator.locks) : new MemoryLocks(),
        isWhole,
        thumbnail,
      }),
      report: { persistent: true, note: isWhole ? null : NOT_WHOLE },
    }),
    (cause: unknown) => {
      const refusal = new StudioError(
        'storage_unavailable',
        'This browser gives the page no storage (a private window often does not), so recordings last only for this visit; download what you want to keep.',
        { cause },
      );
      return { recorder: new Recorder(new MemoryFileStore()), report: { persistent: false, note: refusal.message } };
    },
  );
  // What goes wrong is told to whoever lists the runs.
  opened.recorder.recover().catch(() => {});
  return opened;
}

await serve(new RecorderOwner(), globalThis);
