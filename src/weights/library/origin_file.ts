/**
 * Reads a file at its origin by range requests, coping with interruptions, stalls and whole answers to range requests. Bytes are placed by
 * their position in the file, never just appended.
 * It does not use `If-Range`, which would cost a CORS preflight per range that a CDN need not answer. Comparing each answer's ETag detects
 * the same changes, even on servers that ignore the header.
 */
import type { Address, Requests } from './requests.ts';
import { FileChanged, Passing, bodyOf, discard, totalLength, wholeLength } from './requests.ts';

/** Number of concurrent ranges per piece; the hub's CDN throttles long answers. */
const PARALLEL = 4;
const SMALLEST_RANGE = 2 ** 20;

/** The origin answered a range request with the whole file. */
class WholeAnswer extends Error {}

interface Stream {
  reader: ReadableStreamDefaultReader<Uint8Array>;
  /** Position in the file of the first byte of `rest`. */
  at: number;
  /** Read and not used yet. */
  rest: Uint8Array;
}

export class OriginFile {
  readonly #requests: Requests;
  readonly #address: Address;
  readonly #size: number;
  #version: string | null;
  /** Null until the first answer. */
  #hasRanges: boolean | null = null;
  /** The incoming stream, if the origin has no ranges. */
  #stream: Stream | null = null;

  /**
   * @param size the file's required size in bytes
   * @param version what {@link version} was when its first bytes were read, or null
   */
  constructor(requests: Requests, address: Address, size: number, version: string | null) {
    this.#requests = requests;
    this.#address = address;
    this.#size = size;
    this.#version = version;
  }

  /** ETag or date of the file, known after the first read if the origin gives one. */
  get version(): string | null {
    return this.#version;
  }

  /**
   * Reads bytes `begin` … `end`.
   * @param onBytes receives the number of newly arrived bytes; negative if some must be fetched again
   * @throws FileChanged, StudioError `origin_unavailable` | `cancelled`
   */
  async read(
    begin: number,
    end: number,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(end - begin);
    if (this.#hasRanges !== false) {
      try {
        await this.#readRanges(begin, bytes, signal, onBytes);
        return bytes;
      } catch (error) {
        if (!(error instanceof WholeAnswer)) {
          throw error;
        }
        this.#hasRanges = false;
      }
    }
    await this.#readStream(begin, bytes, signal, onBytes);
    return bytes;
  }

  /** Aborts an answer still being received. */
  close(): void {
    void this.#stream?.reader.cancel().catch(() => undefined);
    this.#stream = null;
  }

  async #readRanges(
    begin: number,
    into: Uint8Array<ArrayBuffer>,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<void> {
    const count = Math.max(1, Math.min(PARALLEL, Math.floor(into.length / SMALLEST_RANGE)));
    const each = Math.ceil(into.length / count);
    const failed = new AbortController();
    const either = AbortSignal.any([signal, failed.signal]);
    let received = 0;
    let onAnswer: () => void = () => undefined;
    const answered = new Promise<void>((resolve) => {
      onAnswer = resolve;
    });
    const range = async (i: number) => {
      const part = into.subarray(i * each, Math.min((i + 1) * each, into.length));
      // Until the first answer proves that the origin has ranges, the others might be whole files, too.
      if (i > 0 && this.#hasRanges === null) {
        await answered;
      }
      await this.#readRange(begin + i * each, part, either, onAnswer, (more) => {
        received += more;
        onBytes(more);
      });
    };
    const ranges = Array.from({ length: count }, (_, i) => range(i));
    try {
      await Promise.all(ranges);
    } catch (error) {
      failed.abort();
      onAnswer();
      await Promise.allSettled(ranges);
      onBytes(-received);
      throw error;
    }
  }

  /** One range, resumed where it broke off. */
  async #readRange(
    begin: number,
    into: Uint8Array<ArrayBuffer>,
    signal: AbortSignal,
    onAnswer: () => void,
    onBytes: (count: number) => void,
  ): Promise<void> {
    let filled = 0;
    await this.#requests.insist(this.#address, signal, async (gained) => {
      const range = { begin: begin + filled, end: begin + into.length };
      const response = await this.#requests.send(this.#address, range, signal);
      this.#checkRange(response, range);
      onAnswer();
      const reader = bodyOf(response);
      try {
        while (filled < into.length) {
          const part = await this.#requests.next(reader, signal);
          if (part === null) {
            throw new Passing('the answer ended early');
          }
          if (part.length > into.length - filled) {
            throw new Passing('the answer was longer than asked for');
          }
          into.set(part, filled);
          filled += part.length;
          gained(part.length);
          onBytes(part.length);
        }
      } finally {
        // The rest of it is not wanted.
        void reader.cancel().catch(() => undefined);
      }
    });
  }

  #checkRange(response: Response, { begin, end }: { begin: number; end: number }): void {
    if (response.status === 200) {
      this.#check(response, wholeLength(response));
      if (begin > 0 || end < this.#size) {
        discard(response);
        throw new WholeAnswer();
      }
    } else {
      this.#check(response, totalLength(response));
      const first = /^bytes ([0-9]+)-/.exec(response.headers.get('Content-Range') ?? '');
      if (first && Number(first[1]) !== begin) {
        discard(response);
        throw new Passing('the answer was another range');
      }
      this.#hasRanges = true;
    }
  }

  /** Continues in the stream of the whole file, restarting it if it breaks off. */
  async #readStream(
    begin: number,
    into: Uint8Array<ArrayBuffer>,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<void> {
    let filled = 0;
    await this.#requests.insist(this.#address, signal, async (gained) => {
      try {
        const stream = (this.#stream ??= await this.#openStream(begin + filled, signal));
        while (filled < into.length) {
          if (stream.rest.length === 0) {
            const part = await this.#requests.next(stream.reader, signal);
            if (part === null) {
              throw new Passing('the answer ended early');
            }
            gained(part.length);
            stream.rest = part;
          }
          const skipped = Math.min(begin + filled - stream.at, stream.rest.length);
          const taken = stream.rest.subarray(skipped, skipped + into.length - filled);
          into.set(taken, filled);
          filled += taken.length;
          stream.at += skipped + taken.length;
          stream.rest = stream.rest.subarray(skipped + taken.length);
          onBytes(taken.length);
        }
      } catch (error) {
        this.close();
        throw error;
      }
    });
    if (begin + into.length === this.#size) {
      this.close();
    }
  }

  /** The file from `begin` if the origin has ranges, else from its first byte. */
  async #openStream(begin: number, signal: AbortSignal): Promise<Stream> {
    const response = await this.#requests.send(this.#address, { begin, end: this.#size }, signal);
    const isWhole = response.status === 200;
    this.#check(response, isWhole ? wholeLength(response) : totalLength(response));
    return { reader: bodyOf(response), at: isWhole ? 0 : begin, rest: new Uint8Array() };
  }

  /** Checks an answer against what is known about the file. */
  #check(response: Response, size: number | null): void {
    const version = response.headers.get('ETag')?.replace(/^W\//, '') ?? response.headers.get('Last-Modified');
    const isOther = this.#version !== null && version !== null && version !== this.#version;
    if ((size !== null && size !== this.#size) || isOther) {
      discard(response);
      throw new FileChanged(size);
    }
    this.#version ??= version;
  }
}
