/**
 * Two stores behaving as one: new folders go to the first, and older ones stay in the second. A folder with files is in one of the two,
 * never in both.
 */
import type { AppendFile, FileStore } from './file_store.ts';

type Listing = { name: string; kind: 'file' | 'folder' }[];

export class UnitedFileStore implements FileStore {
  readonly persistent = true;
  readonly #first: FileStore;
  readonly #second: FileStore;
  /** Which store has a folder with files; valid while the folder exists, since the second gets no new ones. */
  readonly #known = new Map<string, FileStore>();

  constructor(first: FileStore, second: FileStore) {
    this.#first = first;
    this.#second = second;
  }

  async write(path: string, content: Blob | Uint8Array<ArrayBuffer>): Promise<void> {
    await (await this.#holder(folderOf(path))).write(path, content);
  }

  async move(folder: string, from: string, to: string): Promise<void> {
    await (await this.#holder(folder)).move(folder, from, to);
  }

  async read(path: string): Promise<Blob | null> {
    const known = this.#known.get(folderOf(path));
    return known ? known.read(path) : ((await this.#first.read(path)) ?? (await this.#second.read(path)));
  }

  async list(folder: string): Promise<Listing> {
    const known = this.#known.get(folder);
    if (known) {
      return known.list(folder);
    }
    const entries = [...(await this.#second.list(folder)), ...(await this.#first.list(folder))];
    return [...new Map(entries.map((entry) => [entry.name, entry])).values()];
  }

  async remove(path: string): Promise<void> {
    await this.#first.remove(path);
    await this.#second.remove(path);
    this.#known.delete(path);
  }

  async append(path: string): Promise<AppendFile> {
    return (await this.#holder(folderOf(path))).append(path);
  }

  async #holder(folder: string): Promise<FileStore> {
    let holder = this.#known.get(folder);
    if (!holder) {
      const isSecond = !(await this.#first.list(folder)).some(isFile) && (await this.#second.list(folder)).some(isFile);
      holder = isSecond ? this.#second : this.#first;
      this.#known.set(folder, holder);
    }
    return holder;
  }
}

function isFile({ kind }: Listing[number]): boolean {
  return kind === 'file';
}

function folderOf(path: string): string {
  return path.slice(0, Math.max(path.lastIndexOf('/'), 0));
}
