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

export class ReadAhead {
  /** Everything that was asked for so far. */
  readonly asked: Asked[] = [];
  readonly #contents: readonly Content[];
  readonly #source: WeightSource;
  #orders: readonly (readonly Asked[])[];
  /** What was asked for, and behind it what is expected. */
  #coming: Asked[] = [];
  /** Being read, in the order of `#coming`, whose places they name. */
  #reading: { place: number; bytes: Promise<Bytes> }[] = [];
  /** From where reading goes on. */
  #next = 0;
  #parts: Iterator<Part> | null = null;

  /** @param orders in which such a session's weights were asked for before, the likeliest first */
  constructor(contents: readonly Content[], source: WeightSource, orders: readonly (readonly Asked[])[]) {
    this.#contents = contents;
    this.#source = source;
    this.#orders = orders;
  }

  /** The place of a range that is asked for now, for {@link read}. */
  ask(range: Asked): number {
    const place = this.asked.push(range) - 1;
    if (!isSame(this.#coming.at(place), range)) {
      this.#reading.splice(0).forEach(({ bytes }) => void bytes.then(free, () => undefined));
      this.#orders = this.#orders.filter((order) => this.asked.every((one, i) => isSame(order.at(i), one)));
      this.#coming = [...this.asked, ...(this.#orders.at(0)?.slice(place + 1) ?? [])];
      this.#next = place;
      this.#parts = null;
    }
    return place;
  }

  /** The next part of what was asked for at this place, which is the last one; null after its end. */
  async read(place: number): Promise<Bytes | null> {
    this.#readOn();
    if (this.#reading.at(0)?.place !== place) {
      return null;
    }
    const part = this.#reading.shift();
    // The disk works while the runtime copies.
    this.#readOn();
    return (await part?.bytes) ?? null;
  }

  #readOn(): void {
    while (this.#reading.length < AHEAD && this.#next < this.#coming.length) {
      const { file, begin, end } = this.#coming[this.#next];
      this.#parts ??= this.#contents[file].parts(begin, end)[Symbol.iterator]();
      const part = this.#parts.next();
      if (part.done) {
        this.#parts = null;
        this.#next += 1;
      } else {
        const bytes = this.#make(part.value);
        // A failure is told when its part is asked for.
        bytes.catch(() => undefined);
        this.#reading.push({ place: this.#next, bytes });
      }
    }
  }

  async #make({ ranges, make }: Part): Promise<Bytes> {
    const contents = await Promise.all(ranges.map((range) => this.#source.read(range)));
    const bytes = make(contents);
    contents.filter(({ buffer }) => buffer !== bytes.buffer).forEach(free);
    return bytes;
  }
}

function isSame(one: Asked | undefined, other: Asked): boolean {
  return one?.file === other.file && one.begin === other.begin && one.end === other.end;
}

/** Gives the memory back at once. Node 20, where the tests run, cannot; browsers with JSPI can. */
export function free(bytes: Bytes | null): void {
  (bytes?.buffer as { transfer?: (length: number) => void } | undefined)?.transfer?.(0);
}
