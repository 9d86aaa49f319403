/** A file that is read in places, however large it is: videos keep their tags before or behind gigabytes of pictures. */
import { damaged } from '../damage.ts';

/** Neighbouring reads come out of one piece of this many bytes. */
const WINDOW = 2 ** 16;
/** Bytes that may be read of one file in all, and times: work that tags never need. */
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
   * Fewer bytes at the end of the file.
   * @throws StudioError `image_unreadable` when more is read than any file needs
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
