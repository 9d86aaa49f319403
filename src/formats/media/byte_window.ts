/** Random access to a file of any size: videos have their tags before or after gigabytes of pictures. */
import { damaged } from '../damage.ts';

/** Nearby reads share one block of this many bytes. */
const WINDOW = 2 ** 16;
/** The most bytes and reads per file; tags never need more. */
const MAX_READ = 2 ** 27;
const MAX_READS = 20_000;

export class ByteWindow {
  readonly size: number;
  #start = 0;
  #bytes = new Uint8Array(0);
  #left = MAX_READ;
  #reads = MAX_READS;

  /** @param format its name, for sentences */
  constructor(
    readonly source: Blob | Uint8Array<ArrayBuffer>,
    readonly format: string,
  ) {
    this.size = source instanceof Blob ? source.size : source.length;
  }

  /**
   * Returns fewer bytes at the end of the file.
   * @throws StudioError `image_unreadable` if more is read than any file needs
   */
  async read(start: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const end = Math.min(this.size, start + length);
    if (start >= this.#start && end <= this.#start + this.#bytes.length) {
      return this.#bytes.subarray(start - this.#start, Math.max(start, end) - this.#start);
    }
    const piece = Math.max(length, WINDOW);
    this.#left -= piece;
    if (--this.#reads < 0 || this.#left < 0) {
      throw damaged(this.format, 'its parts have no end');
    }
    const { source } = this;
    this.#bytes =
      source instanceof Blob
        ? new Uint8Array(await source.slice(start, start + piece).arrayBuffer())
        : source.subarray(start, start + piece);
    this.#start = start;
    return this.#bytes.subarray(0, Math.max(0, end - start));
  }
}
