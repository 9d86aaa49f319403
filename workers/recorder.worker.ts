/** The recorder's worker: opens the browser's private storage. */
import { StudioError } from '../src/core/errors.ts';
import { browserStore } from '../src/recorder/browser_store.ts';
import { MemoryLocks, WebLocks } from '../src/recorder/locks.ts';
import { MemoryFileStore } from '../src/recorder/memory_file_store.ts';
import { OpfsFileStore } from '../src/recorder/opfs_file_store.ts';
import { Recorder } from '../src/recorder/recorder.ts';
import { filesAreSafe } from '../src/storage/torn_log.ts';
import { serve } from './connection.ts';
import { RecorderOwner, type OpenedRecorder } from './recorder_owner.ts';

const NOT_WHOLE =
  'The browser does not open the place where the recordings lie, so most of them are not shown now; they are not deleted. Reload the page, or start the browser anew; what you make meanwhile is kept beside them.';

/** Longer side, in pixels. */
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

async function open(): Promise<OpenedRecorder> {
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
  // Whoever lists the runs gets the error.
  opened.recorder.recover().catch(() => {});
  return opened;
}

await serve(new RecorderOwner(open), globalThis);
