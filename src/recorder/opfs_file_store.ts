/** The browser's private file system (OPFS). */
import { StudioError } from '../core/errors.ts';
import type { AppendFile, FileStore } from './file_store.ts';

/** Non-standard, missing in some browsers and unknown to TypeScript. */
interface Movable {
  move?(name: string): Promise<void>;
}

/** How many folder handles to cache: each level of a path costs a call to the browser process, and recordings lie five levels deep. */
const KEPT_FOLDERS = 32;

/** Delays before retrying a locked file; a dead tab releases its files within two seconds. */
const BACK_OFF_MS = [10, 20, 40, 80, 160, 320, 640, 730];

export class OpfsFileStore implements FileStore {
  readonly persistent = true;
  readonly #root: FileSystemDirectoryHandle;
  /** Cached handles by path, least recently used first. */
  readonly #folders = new Map<string, FileSystemDirectoryHandle>();

  private constructor(root: FileSystemDirectoryHandle) {
    this.#root = root;
  }

  /** Rejects if the browser has no such storage or refuses it, as in some private windows. */
  static async open(root: FileSystemDirectoryHandle): Promise<OpfsFileStore> {
    const store = new OpfsFileStore(root);
    try {
      // Some browsers return the folder but refuse the first file.
      await store.write('.probe', new Blob([]));
    } catch (error) {
      // A full disk can still be read.
      if (!(error instanceof DOMException) || error.name !== 'QuotaExceededError') {
        throw error;
      }
    }
    return store;
  }

  /** A read-only store, for those who must not write, such as the service worker. */
  static reading(root: FileSystemDirectoryHandle): OpfsFileStore {
    return new OpfsFileStore(root);
  }

  async write(path: string, content: Blob | Uint8Array<ArrayBuffer>): Promise<void> {
    const { folder, name } = split(path);
    const handle = await openHandle(
      await this.#within(folder, true, (inside) => inside.getFileHandle(name, { create: true })),
    );
    try {
      handle.truncate(0);
      if (content instanceof Blob) {
        await writePieces(handle, content);
      } else {
        writeAll(handle, content, 0);
      }
      handle.flush();
    } finally {
      handle.close();
    }
  }

  async move(folder: string, from: string, to: string): Promise<void> {
    const file: FileSystemFileHandle & Movable = await this.#within(folder, false, (inside) =>
      inside.getFileHandle(from),
    );
    if (file.move) {
      await file.move(to);
      return;
    }
    const directory = await this.#directory(folder, false);
    // A writable's content becomes visible when it is closed, so the copy is either whole or absent.
    const stream = await (await directory.getFileHandle(to, { create: true })).createWritable();
    try {
      await stream.write(await file.getFile());
    } catch (error) {
      await stream.abort().catch(() => {});
      throw error;
    }
    await stream.close();
    await directory.removeEntry(from);
  }

  async read(path: string): Promise<Blob | null> {
    const { folder, name } = split(path);
    return absentAsNull(() =>
      this.#within(folder, false, async (inside) => (await inside.getFileHandle(name)).getFile()),
    );
  }

  async list(folder: string): Promise<{ name: string; kind: 'file' | 'folder' }[]> {
    const directory = await absentAsNull(() => this.#directory(folder, false));
    const found: { name: string; kind: 'file' | 'folder' }[] = [];
    for await (const [name, handle] of directory ?? []) {
      found.push({ name, kind: handle.kind === 'directory' ? 'folder' : 'file' });
    }
    return found;
  }

  async remove(path: string): Promise<void> {
    const { folder, name } = split(path);
    for (const kept of this.#folders.keys()) {
      if (kept === path || kept.startsWith(`${path}/`)) {
        this.#folders.delete(kept);
      }
    }
    await absentAsNull(async () => {
      const directory = await this.#directory(folder, false);
      await directory.removeEntry(name, { recursive: true });
      return null;
    });
  }

  async append(path: string): Promise<AppendFile> {
    const { folder, name } = split(path);
    const file = await this.#within(folder, true, (inside) => inside.getFileHandle(name, { create: true }));
    return new OpfsAppendFile(await openHandle(file));
  }

  /** Runs `work` on a cached folder handle. Another tab may have removed the folder since, so a miss is retried with a fresh handle. */
  async #within<T>(path: string, create: boolean, work: (folder: FileSystemDirectoryHandle) => Promise<T>): Promise<T> {
    const kept = this.#folders.get(path);
    this.#folders.delete(path);
    const found = kept && (await absentAsNull(() => work(kept)));
    if (kept && found) {
      this.#folders.set(path, kept);
      return found;
    }
    const folder = await this.#directory(path, create);
    this.#folders.set(path, folder);
    if (this.#folders.size > KEPT_FOLDERS) {
      const [oldest] = this.#folders.keys();
      this.#folders.delete(oldest);
    }
    return work(folder);
  }

  async #directory(path: string, create: boolean): Promise<FileSystemDirectoryHandle> {
    let directory = this.#root;
    for (const name of path.split('/').filter((part) => part !== '')) {
      directory = await directory.getDirectoryHandle(name, { create });
    }
    return directory;
  }
}

class OpfsAppendFile implements AppendFile {
  readonly #handle: FileSystemSyncAccessHandle;

  constructor(handle: FileSystemSyncAccessHandle) {
    this.#handle = handle;
  }

  read(): Promise<Uint8Array> {
    return promised(() => {
      const bytes = new Uint8Array(this.#handle.getSize());
      return bytes.subarray(0, this.#handle.read(bytes, { at: 0 }));
    });
  }

  write(bytes: Uint8Array<ArrayBuffer>, at: number): Promise<void> {
    return promised(() => writeAll(this.#handle, bytes, at));
  }

  truncate(length: number): Promise<void> {
    return promised(() => this.#handle.truncate(length));
  }

  flush(): Promise<void> {
    return promised(() => this.#handle.flush());
  }

  close(): Promise<void> {
    return promised(() => this.#handle.close());
  }
}

/** Turns these handles' synchronous exceptions into rejections. */
function promised<T>(work: () => T): Promise<T> {
  return new Promise((resolve) => {
    resolve(work());
  });
}

async function writePieces(handle: FileSystemSyncAccessHandle, content: Blob): Promise<void> {
  let at = 0;
  const reader = content.stream().getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    writeAll(handle, piece.value, at);
    at += piece.value.length;
  }
}

function writeAll(handle: FileSystemSyncAccessHandle, bytes: Uint8Array<ArrayBuffer>, at: number): void {
  // On a full disk some throw; Chromium's private windows answer with a huge number instead.
  if (handle.write(bytes, { at }) !== bytes.length) {
    throw new DOMException('Only a part could be written.', 'QuotaExceededError');
  }
}

async function openHandle(file: FileSystemFileHandle): Promise<FileSystemSyncAccessHandle> {
  for (const wait of [...BACK_OFF_MS, null]) {
    try {
      return await file.createSyncAccessHandle();
    } catch (cause) {
      if (!(cause instanceof DOMException) || cause.name !== 'NoModificationAllowedError') {
        throw cause;
      }
      if (wait === null) {
        throw new StudioError(
          'storage_unavailable',
          'This recording is open in another tab; close that tab, then try again.',
          { retry: 'same', cause },
        );
      }
    }
    await new Promise((over) => setTimeout(over, wait));
  }
  throw new Error('Assertion failed: the last attempt returns or throws');
}

function split(path: string): { folder: string; name: string } {
  const slash = path.lastIndexOf('/');
  return { folder: path.slice(0, Math.max(slash, 0)), name: path.slice(slash + 1) };
}

async function absentAsNull<T>(look: () => Promise<T>): Promise<T | null> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof DOMException && error.name === 'NotFoundError') {
      return null;
    }
    throw error;
  }
}
