/** Which changes of weights the device adds itself, and what it needs for that. */
import type { External, LowRankDelta, StoredTensor } from '../graphs/graph.ts';
import { asFloats } from '../weights/quantise.ts';
import type { Bytes, Range, WeightSource } from '../weights/weight_source.ts';
import type { Product } from './product_adder.ts';

type Products = readonly LowRankDelta[];

/** The locations as they are to be read, and by location what is to be added afterwards. */
export interface DeferredProducts {
  externals: External[];
  products: ReadonlyMap<string, Products>;
}

/** Bytes of factors that are read at one time. */
const TOGETHER = 32 * 2 ** 20;

/**
 * Takes plain LoRAs out of what is merged while weights stream. Others need the weight's own numbers, or come before quantising, and stay.
 */
export function deferProducts(externals: readonly External[]): DeferredProducts {
  const products = new Map<string, Products>();
  const all = externals.map((external): External => {
    const deferred = external.kind === 'cast' ? productsOf(external.tensor) : null;
    if (external.kind !== 'cast' || !deferred) {
      return external;
    }
    products.set(external.location, deferred);
    const tensor = { ...external.tensor };
    delete tensor.deltas;
    return { ...external, tensor };
  });
  return { externals: all, products };
}

function productsOf({ deltas, shape }: StoredTensor): Products | null {
  const isPlain = (delta: NonNullable<typeof deltas>[number]): delta is LowRankDelta =>
    !('kind' in delta) && delta.lengths === undefined;
  return deltas?.every(isPlain) && columnsOf(shape) % 4 === 0 ? deltas : null;
}

const columnsOf = (shape: readonly number[]) => shape.slice(1).reduce((product, side) => product * side, 1);

/** Factors that are read together. */
interface Batch {
  bytes: number;
  ranges: Range[];
  contents: Promise<Bytes[]> | null;
  /** Weights that still need some of them. */
  left: number;
}

/** Reads factors for one weight after another. A LoRA has hundreds of small ones, of which each would take a read of its own. */
export class ProductReader {
  readonly #places = new Map<string, { batch: Batch; first: number; products: Products }>();
  readonly #source: WeightSource;

  /** @param locations of weights, in the order in which their products will be asked for */
  constructor(products: DeferredProducts['products'], locations: readonly string[], source: WeightSource) {
    this.#source = source;
    let batch: Batch | null = null;
    for (const location of locations) {
      const own = products.get(location);
      if (own) {
        const ranges = own.flatMap(({ up, down }) => [up, down].map(rangeOf));
        const bytes = ranges.reduce((sum, { begin, end }) => sum + end - begin, 0);
        batch = batch && batch.bytes + bytes <= TOGETHER ? batch : { bytes: 0, ranges: [], contents: null, left: 0 };
        this.#places.set(location, { batch, first: batch.ranges.length, products: own });
        batch.ranges.push(...ranges);
        batch.bytes += bytes;
        batch.left += 1;
      }
    }
  }

  /** Begins to read what a weight's product is made of, so that it comes while the weight itself does. */
  begin(location: string): void {
    const batch = this.#places.get(location)?.batch;
    if (batch && !batch.contents) {
      batch.contents = this.#source.readTogether(batch.ranges);
      // A failure is reported when the product is needed.
      batch.contents.catch(() => undefined);
    }
  }

  /**
   * All of a weight's changes as one product; null if it has none.
   * @throws StudioError `checkpoint_incomplete` when a file cannot be read (any more)
   */
  async productFor(location: string): Promise<Product | null> {
    const place = this.#places.get(location);
    if (!place) {
      return null;
    }
    const { batch, first, products } = place;
    this.begin(location);
    const contents = (await batch.contents) ?? [];
    const product = productOf(products, contents.slice(first, first + 2 * products.length));
    batch.left -= 1;
    if (batch.left <= 0) {
      batch.contents = null;
    }
    return product;
  }
}

function rangeOf({ file, offset, length }: StoredTensor): Range {
  return { file, begin: offset, end: offset + length };
}

/** @param contents bytes of each product's two factors, `up` before `down` */
export function productOf(products: Products, contents: readonly Bytes[]): Product {
  const parts = products.map(({ up, down, scale }, n) => ({
    up: asFloats(contents[2 * n], up.dtype),
    down: asFloats(contents[2 * n + 1], down.dtype),
    rank: down.shape[0],
    scale,
  }));
  const rank = parts.reduce((sum, part) => sum + part.rank, 0);
  const [rows, columns] = [parts[0].up.length / parts[0].rank, parts[0].down.length / parts[0].rank];
  const upRows = 4 * Math.ceil(rows / 4);
  const [up, down] = [new Float32Array(rank * upRows), new Float32Array(rank * columns)];
  let first = 0;
  for (const part of parts) {
    down.set(part.down, first * columns);
    for (let i = 0; i < part.rank; i++) {
      const begin = (first + i) * upRows;
      for (let row = 0, at = i; row < rows; row++, at += part.rank) {
        up[begin + row] = part.scale * part.up[at];
      }
    }
    first += part.rank;
  }
  return { rows, columns, rank, up, down };
}
