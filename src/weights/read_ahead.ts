/**
 * Reads what ONNX Runtime asks for while a session is made, and ahead of it where the order is known. The runtime takes one weight after
 * the other and waits for each, in the order of a hash table that has another seed each time, of which few come up in practice (measured
 * with onnxruntime-web 1.30.0): so the orders of earlier sessions are remembered (engine/read_orders.ts) and tried.
 */
import type { Bytes, Range, WeightSource } from './weight_source.ts';

/** Bytes that are made from the contents of ranges, none for a constant. */
export interface Part {
  ranges: Range[];
  make: (contents: Bytes[]) => Bytes;
}

/** Length in bytes, and the bytes of any range of it in parts. */
export interface Content {
  length: number;
  parts(begin: number, end: number): Iterable<Part>;
}

/** Bytes [begin, end) of the mounted file of that number. */
export interface Asked {
  file: number;
  begin: number;
  end: number;
}

/** Parts that are being read while the runtime copies one. */
const AHEAD = 3;

/** One range that was asked for, or is expected to be: its parts, in order. */
export class Reading {
  readonly #parts: Iterator<Part>;
  readonly #source: WeightSource;
  readonly #underway: Promise<Bytes>[] = [];

  constructor(parts: Iterable<Part>, source: WeightSource) {
    this.#parts = parts[Symbol.iterator]();
    this.#source = source;
  }

  /** Reads on until `most` parts are under way or there are no more, and says how many are. */
  begin(most: number): number {
    while (this.#underway.length < most) {
      const part = this.#parts.next();
      if (part.done) {
        break;
      }
      const bytes = this.#make(part.value);
      // A failure is told when its part is asked for.
      bytes.catch(() => undefined);
      this.#underway.push(bytes);
    }
    return this.#underway.length;
  }

  /** The next part; undefined after the last. */
  take(): Promise<Bytes> | undefined {
    this.begin(1);
    return this.#underway.shift();
  }

  /** What is under way is not wanted any more. */
  drop(): void {
    this.#underway.splice(0).forEach((bytes) => void bytes.then(free, () => undefined));
  }

  async #make({ ranges, make }: Part): Promise<Bytes> {
    const contents = await Promise.all(ranges.map((range) => this.#source.read(range)));
    const bytes = make(contents);
    contents.filter(({ buffer }) => buffer !== bytes.buffer).forEach(free);
    return bytes;
  }
}

export class ReadAhead {
  /** Everything that was asked for so far. */
  readonly asked: Asked[] = [];
  readonly #contents: readonly Content[];
  readonly #source: WeightSource;
  #orders: readonly (readonly Asked[])[];
  /** What is expected next, and the first few of it that are being read. */
  #expected: readonly Asked[] = [];
  #coming: Reading[] = [];

  /** @param orders in which such a session's weights were asked for before, the likeliest first */
  constructor(contents: readonly Content[], source: WeightSource, orders: readonly (readonly Asked[])[]) {
    this.#contents = contents;
    this.#source = source;
    // Another version of Darkroom may have numbered and cut its files otherwise.
    this.#orders = orders.filter((order) =>
      order.every(({ file, begin, end }) => begin <= end && end <= (contents.at(file)?.length ?? -1)),
    );
  }

  /** To be called when a range is asked for; {@link next} gives its parts. */
  ask(range: Asked): Reading {
    this.asked.push(range);
    if (isSame(this.#expected.at(0), range)) {
      this.#expected = this.#expected.slice(1);
      return this.#coming.shift() ?? this.#open(range);
    }
    this.#coming.splice(0).forEach((reading) => reading.drop());
    this.#orders = this.#orders.filter((order) => this.asked.every((one, i) => isSame(order.at(i), one)));
    this.#expected = this.#orders.at(0)?.slice(this.asked.length) ?? [];
    return this.#open(range);
  }

  /** The next part of what was asked for, null after the last. The disk goes on while the runtime copies. */
  async next(reading: Reading): Promise<Bytes | null> {
    const part = reading.take();
    let left = AHEAD - reading.begin(AHEAD);
    for (let i = 0; left > 0 && i < this.#expected.length; i++) {
      this.#coming[i] ??= this.#open(this.#expected[i]);
      left -= this.#coming[i].begin(left);
    }
    return (await part) ?? null;
  }

  #open({ file, begin, end }: Asked): Reading {
    return new Reading(this.#contents[file].parts(begin, end), this.#source);
  }
}

function isSame(one: Asked | undefined, other: Asked): boolean {
  return one?.file === other.file && one.begin === other.begin && one.end === other.end;
}

/** Gives the memory back at once. Node 20, where the tests run, cannot; browsers with JSPI can. */
export function free(bytes: Bytes | null): void {
  (bytes?.buffer as { transfer?: (length: number) => void } | undefined)?.transfer?.(0);
}
