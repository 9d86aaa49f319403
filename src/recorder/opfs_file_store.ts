/** The browser's private file system (OPFS). */
import type { FileStore } from './file_store.ts';

/** Not in the standard and missing in some browsers; TypeScript does not know it. */
interface Movable {
  move?(name: string): Promise<void>;
}

export class OpfsFileStore implements FileStore {
  readonly persistent = true;
  readonly #root: FileSystemDirectoryHandle;

  private constructor(root: FileSystemDirectoryHandle) {
    this.#root = root;
  }

  /** Rejects where the browser has no such storage or refuses it, as in some private windows. */
  static async open(): Promise<OpfsFileStore> {
    const root = await navigator.storage.getDirectory();
    const store = new OpfsFileStore(root);
    // Some browsers hand out the folder and refuse only the first file.
    const probe = `.probe_${crypto.randomUUID()}`;
    await store.write(probe, new Blob(['darkroom']));
    await store.remove(probe);
    return store;
  }

  async write(path: string, content: Blob): Promise<void> {
    const { folder, name } = split(path);
    const directory = await this.#directory(folder, true);
    const file = await directory.getFileHandle(name, { create: true });
    const stream = await file.createWritable();
    try {
      await stream.write(content);
    } catch (error) {
      await stream.abort().catch(() => {});
      throw error;
    }
    await stream.close();
  }

  async move(folder: string, from: string, to: string): Promise<void> {
    const directory = await this.#directory(folder, false);
    const file: FileSystemFileHandle & Movable = await directory.getFileHandle(from);
    if (file.move) {
      await file.move(to);
      return;
    }
    // A copy becomes visible when it is closed, so it is whole or not there.
    await this.write(`${folder}/${to}`, await file.getFile());
    await directory.removeEntry(from);
  }

  async read(path: string): Promise<Blob | null> {
    const { folder, name } = split(path);
    return absentAsNull(async () => {
      const directory = await this.#directory(folder, false);
      const file = await directory.getFileHandle(name);
      return file.getFile();
    });
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
    await absentAsNull(async () => {
      const directory = await this.#directory(folder, false);
      await directory.removeEntry(name, { recursive: true });
      return null;
    });
  }

  async #directory(path: string, create: boolean): Promise<FileSystemDirectoryHandle> {
    let directory = this.#root;
    for (const name of path.split('/').filter((part) => part !== '')) {
      directory = await directory.getDirectoryHandle(name, { create });
    }
    return directory;
  }
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
