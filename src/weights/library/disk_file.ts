/** A file chosen from disk. */
import { StudioError } from '../../core/errors.ts';
import type { ByteSource } from './file_writer.ts';
import { stopped } from './transfers.ts';

export class DiskFile implements ByteSource {
  readonly version = null;
  readonly #file: File;
  readonly #path: string;

  constructor(file: File, path: string) {
    this.#file = file;
    this.#path = path;
  }

  async read(
    begin: number,
    end: number,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<Uint8Array<ArrayBuffer>> {
    if (signal.aborted) {
      throw stopped();
    }
    try {
      const bytes = new Uint8Array(await this.#file.slice(begin, end).arrayBuffer());
      onBytes(bytes.length);
      return bytes;
    } catch (cause) {
      throw new StudioError(
        'checkpoint_incomplete',
        `${this.#path} could not be read; if its disk was removed, put it back and import the folder again.`,
        { retry: 'same', cause },
      );
    }
  }

  close(): void {
    // Nothing to close.
  }
}
