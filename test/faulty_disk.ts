/** A disk in memory for the recorder's tests. */
import type { AppendFile, FileStore } from '../src/recorder/file_store.ts';

export const FULL = new DOMException('No space.', 'QuotaExceededError');

type Kind = 'write' | 'move' | 'read' | 'list' | 'remove' | 'open' | 'append' | 'truncate' | 'flush';
export type CrashMode = 'crash' | 'torn' | 'lost tail' | 'torn tail';

/** The disk's content if everything ends at one operation. */
export interface Image {
  mode: CrashMode;
  files: Map<string, Uint8Array>;
}

/** A disk that fails at an operation on demand, and shows its content if everything ended there. */
export class Disk implements FileStore {
  readonly persistent = false;
  operations = 0;
  fault: ((operation: number, kind: Kind, path: string) => { torn: boolean; error: Error } | null) | null = null;
  watch: ((image: Image) => void) | null = null;
  #files: Map<string, Uint8Array>;
  /** How much of the files being appended to is certain to be on disk. */
  readonly #flushed = new Map<string, Uint8Array>();

  constructor(files: Map<string, Uint8Array> = new Map()) {
    this.#files = new Map(files);
  }

  snapshot(): Map<string, Uint8Array> {
    return new Map(this.#files);
  }

  async write(path: string, content: Blob | Uint8Array<ArrayBuffer>): Promise<void> {
    const bytes = content instanceof Blob ? new Uint8Array(await content.arrayBuffer()) : content;
    await this.#operation('write', path, {
      whole: (files) => files.set(path, bytes),
      torn: (files) => files.set(path, bytes.slice(0, bytes.length / 2)),
    });
  }

  async move(folder: string, from: string, to: string): Promise<void> {
    await this.#operation('move', `${folder}/${from}`, {
      whole: (files) => {
        const content = files.get(`${folder}/${from}`);
        if (!content) {
          throw new DOMException('There is no such file.', 'NotFoundError');
        }
        files.set(`${folder}/${to}`, content);
        files.delete(`${folder}/${from}`);
      },
    });
  }

  async read(path: string): Promise<Blob | null> {
    await this.#operation('read', path, {});
    const bytes = this.#files.get(path);
    return bytes ? new Blob([new Uint8Array(bytes)]) : null;
  }

  async list(folder: string): Promise<{ name: string; kind: 'file' | 'folder' }[]> {
    await this.#operation('list', folder, {});
    const found = new Map<string, 'file' | 'folder'>();
    for (const path of this.#files.keys()) {
      if (path.startsWith(`${folder}/`)) {
        const [name = '', ...below] = path.slice(folder.length + 1).split('/');
        found.set(name, below.length > 0 ? 'folder' : 'file');
      }
    }
    return [...found].map(([name, kind]) => ({ name, kind }));
  }

  async remove(path: string): Promise<void> {
    const below = (files: Map<string, Uint8Array>) =>
      [...files.keys()].filter((known) => known === path || known.startsWith(`${path}/`));
    await this.#operation('remove', path, {
      whole: (files) => below(files).forEach((known) => files.delete(known)),
      torn: (files) =>
        below(files)
          .filter((_, index) => index % 2 === 0)
          .forEach((known) => files.delete(known)),
    });
  }

  async append(path: string): Promise<AppendFile> {
    await this.#operation('open', path, {
      whole: (files) => files.set(path, files.get(path) ?? new Uint8Array(0)),
    });
    const content = () => this.#files.get(path) ?? new Uint8Array(0);
    this.#flushed.set(path, content());
    const change = async (kind: Kind, bytes: Uint8Array, torn: Uint8Array) => {
      await this.#operation(kind, path, {
        whole: (files) => files.set(path, bytes),
        torn: (files) => files.set(path, torn),
      });
    };
    return {
      read: async () => {
        await this.#operation('read', path, {});
        return content();
      },
      write: (bytes, at) => {
        const before = content().subarray(0, at);
        return change(
          'append',
          Buffer.concat([before, bytes]),
          Buffer.concat([before, bytes.subarray(0, bytes.length / 2)]),
        );
      },
      truncate: (length) => change('truncate', content().slice(0, length), content()),
      flush: () =>
        this.#operation('flush', path, {
          whole: () => this.#flushed.set(path, content()),
        }),
      close: () => {
        this.#flushed.delete(path);
        return Promise.resolve();
      },
    };
  }

  async #operation(
    kind: Kind,
    path: string,
    effect: { whole?: (files: Map<string, Uint8Array>) => unknown; torn?: (files: Map<string, Uint8Array>) => unknown },
  ): Promise<void> {
    this.operations += 1;
    this.#show(effect);
    const fault = this.fault?.(this.operations, kind, path);
    await Promise.resolve();
    if (fault) {
      if (fault.torn) {
        effect.torn?.(this.#files);
      }
      throw fault.error;
    }
    effect.whole?.(this.#files);
  }

  #show(effect: { torn?: (files: Map<string, Uint8Array>) => unknown }): void {
    if (!this.watch) {
      return;
    }
    this.watch({ mode: 'crash', files: this.snapshot() });
    if (effect.torn) {
      const files = this.snapshot();
      effect.torn(files);
      this.watch({ mode: 'torn', files });
    }
    const loose = [...this.#flushed].filter(([path, bytes]) => this.#files.get(path) !== bytes);
    if (loose.length > 0) {
      const [lost, torn] = [this.snapshot(), this.snapshot()];
      for (const [path, flushed] of loose) {
        const bytes = this.#files.get(path) as Uint8Array;
        lost.set(path, flushed);
        torn.set(path, bytes.subarray(0, (flushed.length + bytes.length) / 2));
      }
      this.watch({ mode: 'lost tail', files: lost });
      this.watch({ mode: 'torn tail', files: torn });
    }
  }
}
