/** Reads ranges for ONNX Runtime with one part of read-ahead, so the disk stays busy while the runtime copies. */
import type { Bytes, Range, WeightSource } from './weight_source.ts';

/** Bytes that are made from the contents of ranges, none for a constant. */
export interface Part {
  ranges: Range[];
  /** @param memory gives at least so many bytes to make them in, rather than in fresh memory */
  make: (contents: Bytes[], memory: (length: number) => ArrayBuffer) => Bytes;
}

/** Length in bytes, and the bytes of any range of it in parts. */
export interface Content {
  length: number;
  parts(begin: number, end: number): Iterable<Part>;
}

/** One range that was asked for. */
export class Reading {
  readonly #parts: Iterator<Part>;
  readonly #source: WeightSource;
  #coming: Promise<Bytes> | undefined;

  constructor(parts: Iterable<Part>, source: WeightSource) {
    this.#parts = parts[Symbol.iterator]();
    this.#source = source;
  }

  /** The next part, in order; null after the last. */
  async next(): Promise<Bytes | null> {
    const part = this.#coming ?? this.#begin();
    this.#coming = part && this.#begin();
    return (await part) ?? null;
  }

  /** Reads one more part; undefined where there is none. */
  #begin(): Promise<Bytes> | undefined {
    const part = this.#parts.next();
    if (part.done) {
      return undefined;
    }
    const bytes = this.#make(part.value);
    // A failure is reported when its part is needed.
    bytes.catch(() => undefined);
    return bytes;
  }

  async #make({ ranges, make }: Part): Promise<Bytes> {
    const contents = await Promise.all(ranges.map((range) => this.#source.read(range)));
    const bytes = make(contents, (length) => this.#source.memory(length));
    contents.filter(({ buffer }) => buffer !== bytes.buffer).forEach((content) => this.#source.free(content));
    return bytes;
  }
}
