/** Which changes of weights the device adds itself, and what it needs for that. */
import type { External, LowRankDelta, StoredTensor } from '../graphs/graph.ts';
import type { Product } from './product_adder.ts';

type Products = readonly LowRankDelta[];

/** The locations as they are to be read, and by location what is to be added afterwards. */
export interface DeferredProducts {
  externals: External[];
  products: ReadonlyMap<string, Products>;
}

/**
 * Takes plain LoRAs out of what is merged while weights stream. Others need the weight's own numbers, or come before quantising, and stay.
 */
export function deferProducts(externals: readonly External[]): DeferredProducts {
  const products = new Map<string, Products>();
  const all = externals.flatMap((external): External[] => {
    const deferred = external.kind === 'cast' ? productsOf(external.tensor) : null;
    if (external.kind !== 'cast' || !deferred) {
      return [external];
    }
    products.set(external.location, deferred);
    const tensor = { ...external.tensor };
    delete tensor.deltas;
    return [{ ...external, tensor }, ...deferred.flatMap(({ up, down }) => [up, down].map(factorsOf))];
  });
  return { externals: all, products };
}

function productsOf({ deltas, shape }: StoredTensor): Products | null {
  const isPlain = (delta: NonNullable<typeof deltas>[number]): delta is LowRankDelta =>
    !('kind' in delta) && delta.lengths === undefined;
  return deltas?.every(isPlain) && columnsOf(shape) % 4 === 0 ? deltas : null;
}

const columnsOf = (shape: readonly number[]) => shape.slice(1).reduce((product, side) => product * side, 1);
const locationOf = ({ file, offset }: StoredTensor) => `factors/${file}#${offset}`;

function factorsOf(tensor: StoredTensor): External {
  const length = 4 * tensor.shape.reduce((product, side) => product * side, 1);
  return { location: locationOf(tensor), kind: 'cast', tensor, to: 'f32', length };
}

/**
 * All of a weight's changes as one product.
 * @param read gives the numbers of a location
 */
export async function productOf(
  products: Products,
  read: (location: string) => Promise<Float32Array<ArrayBuffer>>,
): Promise<Product> {
  const parts = await inTurn(products, async ({ up, down, scale }) => ({
    up: await read(locationOf(up)),
    down: await read(locationOf(down)),
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
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < part.rank; i++) {
        up[(first + i) * upRows + row] = part.scale * part.up[row * part.rank + i];
      }
    }
    first += part.rank;
  }
  return { rows, columns, rank, up, down };
}

/** One after another, as reading shares memory. */
async function inTurn<T, U>(all: readonly T[], make: (one: T) => Promise<U>): Promise<U[]> {
  const made: U[] = [];
  for (const one of all) {
    made.push(await make(one));
  }
  return made;
}
