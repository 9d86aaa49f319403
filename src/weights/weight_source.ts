/**
 * Reads ranges of a checkpoint's files while a session is created. What that takes is waiting for the browser's answer, about a
 * millisecond each, and most tensors of a network are tiny: two thirds of a UNet's are biases and scales of a few kilobytes. So the tiny
 * ones are fetched together beforehand, neighbours in one read, and large ones in several reads at a time (see virtual_file.ts).
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

/** Tensors up to this size are fetched together, as long as all of them are not more than the second figure. */
const TINY = 2 ** 20;
const TINY_TOTAL = 32 * 2 ** 20;
/** Bytes between two neighbours that are rather read than asked about. */
const GAP = 64 * 2 ** 10;
const AT_ONCE = 8;

export class WeightSource {
  readonly #blobs: ReadonlyMap<string, Blob>;
  readonly #tiny: Range[];
  #fetched: Promise<(Range & { bytes: Bytes })[]> | null = null;

  /**
   * @param blobs the files by the names that ranges use
   * @param expected what will be read; only used to read better
   */
  constructor(blobs: ReadonlyMap<string, Blob>, expected: readonly Range[] = []) {
    this.#blobs = blobs;
    this.#tiny = neighbours(tinyOnes(expected));
  }

  /**
   * A copy that belongs to the caller.
   * @throws StudioError `checkpoint_incomplete` when the file cannot be read (any more)
   */
  async read({ file, begin, end }: Range): Promise<Bytes> {
    const holds = (range: Range) => range.file === file && range.begin <= begin && end <= range.end;
    if (this.#tiny.some(holds)) {
      this.#fetched ??= this.#fetchTiny();
      const run = (await this.#fetched).find(holds);
      if (run) {
        return run.bytes.slice(begin - run.begin, end - run.begin);
      }
    }
    return readBytes(this.#blob(file).slice(begin, end));
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

  async #fetchTiny(): Promise<(Range & { bytes: Bytes })[]> {
    const fetched: (Range & { bytes: Bytes })[] = [];
    const left = this.#tiny.values();
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

/** The same bytes in fewer ranges. */
function neighbours(ranges: Range[]): Range[] {
  const joined: Range[] = [];
  for (const range of ranges.sort((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : a.begin - b.begin))) {
    const last = joined.at(-1);
    if (last?.file === range.file && range.begin - last.end <= GAP && range.end - last.begin <= 4 * TINY) {
      last.end = Math.max(last.end, range.end);
    } else {
      joined.push({ ...range });
    }
  }
  return joined;
}

/** A read of some megabytes that takes longer than this is asked for a second time. */
const PATIENCE_MS = 20_000;
const ATTEMPTS = 3;

/**
 * Under load, creating a session was seen to hang while weights were read from a file. One unanswered read would do that to the
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
  throw unreadable('no answer');
}

function unreadable(cause: unknown): StudioError {
  return new StudioError(
    'checkpoint_incomplete',
    'A weight file of this checkpoint could not be read; if it was moved or changed, open its folder again.',
    { retry: 'same', cause },
  );
}
