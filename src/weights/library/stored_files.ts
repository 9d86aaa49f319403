/** The files of a complete checkpoint in the library. A file is composed of its pieces and only read where it is sliced. */
import { StudioError } from '../../core/errors.ts';
import type { CheckpointFiles, Habits } from '../checkpoint_files.ts';
import { ComposedBlob } from './composed_blob.ts';
import { layoutSize } from './piece_transform.ts';
import type { TransformMakers } from './piece_transform.ts';
import type { FileRecord, Manifest } from './records.ts';
import type { LibraryStore } from './store.ts';

export class StoredFiles implements CheckpointFiles {
  readonly habits: Habits = {};
  readonly prompts: string[] = [];
  readonly #store: LibraryStore;
  readonly #makers: TransformMakers | null;
  readonly #manifest: Manifest;
  readonly #records: Map<string, FileRecord>;

  private constructor(
    store: LibraryStore,
    makers: TransformMakers | null,
    manifest: Manifest,
    records: Map<string, FileRecord>,
  ) {
    this.#store = store;
    this.#makers = makers;
    this.#manifest = manifest;
    this.#records = records;
  }

  /**
   * @param makers of the quantised variants
   * @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `storage_unavailable`
   */
  static async open(store: LibraryStore, ref: string, makers: TransformMakers | null): Promise<StoredFiles> {
    const manifest = await store.complete(ref);
    const paths = manifest.files.map(({ path }) => path);
    const records = new Map<string, FileRecord>();
    for (const [i, record] of (await store.files(ref, paths)).entries()) {
      if (!record?.done || record.missing.length > 0) {
        throw unreadable(manifest.name, paths[i]);
      }
      records.set(paths[i], record);
    }
    return new StoredFiles(store, makers, manifest, records);
  }

  get name(): string {
    return this.#manifest.name;
  }

  get ref(): string {
    return this.#manifest.ref;
  }

  has(path: string): boolean {
    return this.#records.has(path);
  }

  paths(): string[] {
    return [...this.#records.keys()];
  }

  async blob(path: string): Promise<Blob> {
    const record = this.#records.get(path);
    if (!record) {
      throw new StudioError(
        'checkpoint_incomplete',
        `"${this.name}" is stored without ${path}; download it again with that file.`,
      );
    }
    const pieces = await this.#pieces(path, record);
    if (!record.transformed) {
      return new ComposedBlob(pieces);
    }
    const { variant, ref } = this.#manifest;
    const maker = variant === 'full' ? null : (this.#makers?.[variant] ?? null);
    const header = await this.#store.header(ref, path);
    const transform = header && maker && maker(path, header, record.size);
    const isSame =
      transform?.cuts.length === pieces.length &&
      transform.layout.every((part) => 'bytes' in part || part.end <= record.pieces[part.piece]?.length) &&
      layoutSize(transform) === record.storedSize;
    if (!transform || !isSame) {
      throw unreadable(this.name, path);
    }
    return new ComposedBlob(
      transform.layout.map((part) => ('bytes' in part ? part.bytes : pieces[part.piece].slice(part.begin, part.end))),
    );
  }

  version(path: string): string | null {
    const record = this.#records.get(path);
    return record?.digest ? `${record.digest}:${record.transformed ? this.#manifest.variant : 'full'}` : null;
  }

  /** The hash verified on arrival; null for a file that was transformed. */
  sha256(path: string): string | null {
    const record = this.#records.get(path);
    return record && !record.transformed ? record.digest : null;
  }

  async #pieces(path: string, record: FileRecord): Promise<Blob[]> {
    const found = await this.#store.pieces(this.ref, path, [...record.pieces.keys()]);
    return found.map((piece, n) => {
      if (piece?.size !== record.pieces[n].length) {
        throw unreadable(this.name, path);
      }
      return piece;
    });
  }
}

function unreadable(name: string, path: string): StudioError {
  return new StudioError(
    'checkpoint_damaged',
    `${path} of "${name}" is not whole in the library; verify and repair it there.`,
  );
}
