/**
 * In which orders ONNX Runtime asked for the weights of a network, remembered in IndexedDB, in a database of its own. With it weights are
 * read ahead (weights/read_ahead.ts); without it, or with a wrong one, a session is only made more slowly.
 */
import { createStore, delMany, entries, get, set, type UseStore } from 'idb-keyval';
import { hex } from '../weights/checkpoint_files.ts';
import { within } from '../weights/patience.ts';
import type { Asked } from '../weights/read_ahead.ts';

/** Below so many bytes there is nothing to win. */
const WORTHWHILE = 32 * 2 ** 20;
/** The runtime's seed depends on what was loaded before in the same worker, and people mostly load the same things. */
const ORDERS = 4;
/** A network of another picture size is another one. */
const NETWORKS = 32;

/** Milliseconds to wait for an answer: a session is not to hang on what only makes it quicker. */
const PATIENCE = 1000;

/** Each order is flat, file, begin and end in turn: 16 kB for a UNet, and quickly read. */
interface Remembered {
  orders: Float64Array[];
  /** Milliseconds since 1970. */
  used: number;
}

export class ReadOrders {
  #store: UseStore | null = null;

  /** Those of a network with this model, the latest first; none where nothing is known or storage is blocked. */
  async of(model: Uint8Array<ArrayBuffer>): Promise<Asked[][]> {
    const remembered = digest(model)
      .then((key) => get<Remembered>(key, this.#database()))
      .catch(() => undefined);
    const known = await within(PATIENCE, remembered);
    return (known?.orders ?? []).map(unfold);
  }

  /** Remembers one for the next time; whether it could is not told, as nobody has to know. */
  async keep(model: Uint8Array<ArrayBuffer>, asked: readonly Asked[]): Promise<void> {
    if (asked.reduce((sum, { begin, end }) => sum + end - begin, 0) < WORTHWHILE) {
      return;
    }
    try {
      const database = this.#database();
      const key = await digest(model);
      const order = Float64Array.from(asked.flatMap(({ file, begin, end }) => [file, begin, end]));
      const others = ((await get<Remembered>(key, database))?.orders ?? []).filter((one) => !isSame(one, order));
      const orders = [order, ...others].slice(0, ORDERS);
      await set(key, { orders, used: Date.now() } satisfies Remembered, database);
      const all = await entries<IDBValidKey, Remembered>(database);
      const oldest = all.sort(([, a], [, b]) => b.used - a.used).slice(NETWORKS);
      await delMany(
        oldest.map(([one]) => one),
        database,
      );
    } catch {
      // Storage is blocked or full: the next session is made as slowly as this one.
    }
  }

  #database(): UseStore {
    this.#store ??= createStore('darkroom-reading', 'orders');
    return this.#store;
  }
}

function unfold(order: Float64Array): Asked[] {
  return Array.from({ length: order.length / 3 }, (_, i) => {
    const [file, begin, end] = order.subarray(3 * i);
    return { file, begin, end };
  });
}

function isSame(one: Float64Array, other: Float64Array): boolean {
  return one.length === other.length && one.every((value, i) => value === other[i]);
}

async function digest(model: Uint8Array<ArrayBuffer>): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', model)));
}
