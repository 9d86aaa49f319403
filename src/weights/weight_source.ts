/**
 * Reads ranges of a checkpoint's files while a session is created. What that takes is waiting for the browser's answer, about a
 * millisecond each, and most tensors of a network are tiny: two thirds of a UNet's are biases and scales of a few kilobytes. So the tiny
 * ones are fetched together beforehand, neighbours in one read, and large ones part by part (see virtual_file.ts and reading.ts) into
 * memory that is used again: to touch fresh memory takes longer than to read into it.
 * Measured on 2.1 GB in 682 tensors, with what else belongs to it: bench/README.md.
 */
import { StudioError } from '../core/errors.ts';
import { within } from './patience.ts';

/** Bytes [begin, end) of one file. */
export interface Range {
  file: string;
  begin: number;
  end: number;
}

export type Bytes = Uint8Array<ArrayBuffer>;

type Fetched = Range & { bytes: Bytes };

/** Tensors up to this size are fetched together, as long as all of them are not more than the second figure. */
const TINY = 2 ** 20;
const TINY_TOTAL = 32 * 2 ** 20;
/** Bytes between two neighbours that are rather read than asked about. */
const GAP = 64 * 2 ** 10;
/** Bytes that one read is to have at most: fewer and longer ones take less time. */
export const LONGEST = 16 * 2 ** 20;
const AT_ONCE = 8;
/** Buffers that are kept for the next read. */
const KEPT = 4;

export class WeightSource {
  readonly #blobs: ReadonlyMap<string, Blob>;
  readonly #tiny: Range[];
  readonly #spare: ArrayBuffer[] = [];
  #fetched: Promise<Fetched[]> | null = null;

  /**
   * @param blobs the files by the names that ranges use
   * @param expected what will be read; only used to read better
   */
  constructor(blobs: ReadonlyMap<string, Blob>, expected: readonly Range[] = []) {
    this.#blobs = blobs;
    this.#tiny = neighbours(tinyOnes(expected), 4 * TINY);
  }

  /**
   * A copy that belongs to the caller, until it is given to {@link free}; quickest for {@link LONGEST} bytes or somewhat less.
   * @throws StudioError `checkpoint_incomplete` when the file cannot be read (any more)
   */
  async read({ file, begin, end }: Range): Promise<Bytes> {
    const holds = (range: Range) => range.file === file && range.begin <= begin && end <= range.end;
    if (this.#tiny.some(holds)) {
      this.#fetched ??= this.#fetch(this.#tiny);
      const run = (await this.#fetched).find(holds);
      if (run) {
        return run.bytes.slice(begin - run.begin, end - run.begin);
      }
    }
    const blob = this.#blob(file).slice(begin, end);
    if (blob.size <= TINY || blob.size > LONGEST) {
      return readBytes(blob);
    }
    return (await readInto(this.memory(blob.size), blob)) ?? readBytes(blob);
  }

  /**
   * Many small ranges in few reads, and views of what was read in their order; they share memory that nobody else uses.
   * @throws StudioError as {@link read}
   */
  async readTogether(ranges: readonly Range[]): Promise<Bytes[]> {
    const runs = await this.#fetch(neighbours(ranges, LONGEST));
    return ranges.map(({ file, begin, end }) => {
      const run = runs.find((one) => one.file === file && one.begin <= begin && end <= one.end) as Fetched;
      return run.bytes.subarray(begin - run.begin, end - run.begin);
    });
  }

  /** At least so many bytes with anything in them, until they are given to {@link free}. */
  memory(length: number): ArrayBuffer {
    const isWorthKeeping = length > TINY && length <= LONGEST;
    return isWorthKeeping ? (this.#spare.pop() ?? new ArrayBuffer(LONGEST)) : new ArrayBuffer(length);
  }

  /** Takes back the memory of bytes that nobody needs any more, whoever made them. */
  free({ buffer }: Bytes): void {
    if (buffer.byteLength === LONGEST && this.#spare.length < KEPT) {
      this.#spare.push(buffer);
    } else {
      release(buffer);
    }
  }

  /** To be called when nothing is read any more. */
  close(): void {
    this.#spare.splice(0).forEach(release);
    this.#fetched = null;
  }

  /** As {@link read}, synchronously, which workers may. */
  readSync({ file, begin, end }: Range): Bytes {
    return new Uint8Array(new FileReaderSync().readAsArrayBuffer(this.#blob(file).slice(begin, end)));
  }

  /** In bytes. */
  size(file: string): number {
    return this.#blob(file).size;
  }

  #blob(file: string): Blob {
    const blob = this.#blobs.get(file);
    if (!blob) {
      throw new Error(`The graph refers to ${file}, which was not opened.`);
    }
    return blob;
  }

  async #fetch(ranges: readonly Range[]): Promise<Fetched[]> {
    const fetched: Fetched[] = [];
    const left = ranges.values();
    const work = async () => {
      for (const range of left) {
        fetched.push({ ...range, bytes: await readBytes(this.#blob(range.file).slice(range.begin, range.end)) });
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    return fetched;
  }
}

function tinyOnes(ranges: readonly Range[]): Range[] {
  let total = 0;
  return ranges
    .map((range) => ({ range, length: range.end - range.begin }))
    .filter(({ length }) => length > 0 && length <= TINY)
    .sort((a, b) => a.length - b.length)
    .filter(({ length }) => (total += length) <= TINY_TOTAL)
    .map(({ range }) => range);
}

/** The same bytes in fewer ranges, joined up to a length. */
function neighbours(ranges: readonly Range[], longest: number): Range[] {
  const joined: Range[] = [];
  for (const range of ranges.toSorted((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : a.begin - b.begin))) {
    const last = joined.at(-1);
    if (last?.file === range.file && range.begin - last.end <= GAP && range.end - last.begin <= longest) {
      last.end = Math.max(last.end, range.end);
    } else {
      joined.push({ ...range });
    }
  }
  return joined;
}

/** Gives the memory back at once. Node 20, where the tests run, cannot; browsers with JSPI can. */
export function release(buffer: ArrayBuffer): void {
  (buffer as { transfer?: (length: number) => void }).transfer?.(0);
}

/**
 * Fills the beginning of `memory`, which is lost to the caller, with a blob.
 * @returns null where that did not work, or this browser's blobs cannot; whoever wants to know why reads the blob otherwise
 */
async function readInto(memory: ArrayBuffer, blob: Blob): Promise<Bytes | null> {
  let reader: ReadableStreamBYOBReader | undefined;
  try {
    reader = blob.stream().getReader({ mode: 'byob' });
    let bytes = new Uint8Array(memory, 0, 0);
    while (bytes.length < blob.size) {
      const rest = new Uint8Array(bytes.buffer, bytes.length, blob.size - bytes.length);
      // Everything in one answer, where the browser knows how; parts otherwise. The browser collects a stream that is only waited for
      // as garbage, with the read under way, which then never answers (measured with Chromium 156): the timer keeps this call, and with it
      // the reader.
      const read = await within(PATIENCE_MS, reader.read(rest, { min: rest.length }));
      if (!read?.value?.length) {
        return null;
      }
      bytes = new Uint8Array(read.value.buffer, 0, bytes.length + read.value.length);
    }
    return bytes;
  } catch {
    return null;
  } finally {
    reader?.cancel().catch(() => undefined);
  }
}

/** A read of some megabytes that takes longer than this is asked for a second time. */
const PATIENCE_MS = 20_000;
const ATTEMPTS = 3;

/**
 * Once, under load, creating a session was seen to hang while weights were read like this. One unanswered read would do that to the
 * whole engine, so a range that does not come is asked for again.
 */
async function readBytes(blob: Blob): Promise<Bytes> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    try {
      const bytes = await within(PATIENCE_MS, blob.arrayBuffer());
      if (bytes) {
        return new Uint8Array(bytes);
      }
    } catch (cause) {
      throw unreadable(cause);
    }
  }
  throw unreadable(new Error('no answer'));
}

function unreadable(cause: unknown): StudioError {
  return new StudioError(
    'checkpoint_incomplete',
    'A weight file of this checkpoint could not be read; if it was moved or changed, open its folder again.',
    { retry: 'same', cause },
  );
}
