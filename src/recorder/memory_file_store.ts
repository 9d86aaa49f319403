/** Files in memory, for browsers that give a page no storage. */
import type { AppendFile, FileStore } from './file_store.ts';

export class MemoryFileStore implements FileStore {
  readonly persistent = false;
  readonly #files = new Map<string, Blob>();

  write(path: string, content: Blob | Uint8Array<ArrayBuffer>): Promise<void> {
    this.#files.set(path, content instanceof Blob ? content : new Blob([content]));
    return Promise.resolve();
  }

  move(folder: string, from: string, to: string): Promise<void> {
    const content = this.#files.get(`${folder}/${from}`);
    if (!content) {
      return Promise.reject(new DOMException(`${folder}/${from} does not exist.`, 'NotFoundError'));
    }
    this.#files.set(`${folder}/${to}`, content);
    this.#files.delete(`${folder}/${from}`);
    return Promise.resolve();
  }

  read(path: string): Promise<Blob | null> {
    return Promise.resolve(this.#files.get(path) ?? null);
  }

  list(folder: string): Promise<{ name: string; kind: 'file' | 'folder' }[]> {
    const found = new Map<string, 'file' | 'folder'>();
    for (const path of this.#files.keys()) {
      if (path.startsWith(`${folder}/`)) {
        const [name = '', ...below] = path.slice(folder.length + 1).split('/');
        found.set(name, below.length > 0 ? 'folder' : 'file');
      }
    }
    return Promise.resolve([...found].map(([name, kind]) => ({ name, kind })));
  }

  remove(path: string): Promise<void> {
    for (const known of [...this.#files.keys()]) {
      if (known === path || known.startsWith(`${path}/`)) {
        this.#files.delete(known);
      }
    }
    return Promise.resolve();
  }

  append(path: string): Promise<AppendFile> {
    const files = this.#files;
    const content = () => files.get(path) ?? new Blob([]);
    files.set(path, content());
    return Promise.resolve({
      read: async () => new Uint8Array(await content().arrayBuffer()),
      write: (bytes, at) => {
        files.set(path, new Blob([content().slice(0, at), bytes]));
        return Promise.resolve();
      },
      truncate: (length) => {
        files.set(path, content().slice(0, length));
        return Promise.resolve();
      },
      flush: () => Promise.resolve(),
      close: () => Promise.resolve(),
    });
  }
}
