/** Brings blocks' weights to the device: those that stay once, the others through slots that are filled while blocks compute. */
import type * as Ort from 'onnxruntime-web';
import { onDevice, type Block, type BlockWeight } from '../graphs/graph.ts';
import type { Mounted } from '../weights/virtual_file.ts';
import { LONGEST, WeightSource, type Bytes } from '../weights/weight_source.ts';
import type { BlockMemory, WeightBuffer } from './block_memory.ts';
import { SLOTS } from './block_placement.ts';
import { ProductReader, type DeferredProducts } from './device_products.ts';

/** One block's weights on the device. */
export interface PlacedWeights {
  /** By the inputs of its model. */
  tensors: Readonly<Record<string, Ort.Tensor>>;
  buffers: readonly WeightBuffer[];
}

/** What bringing weights to the device took so far. */
export class Uploads {
  bytes = 0;
  tensors = 0;
  /** Of reading and handing them over. */
  ms = 0;
  /** That blocks waited for their weights while the device had nothing to compute; the rest was hidden behind computing. */
  waitedMs = 0;

  /** Bytes per second as far as they were measured; before that a guess that most disks exceed. */
  get perSecond(): number {
    return this.bytes < ENOUGH ? GUESSED : (this.bytes / Math.max(1, this.ms)) * 1000;
  }
}

/** Bytes that may wait for the device: they are held in memory that nobody counts. */
const WAITING = 256 * 2 ** 20;
/** Weights that are read at one time: what small ones take is mostly waiting for the browser's answer. */
const AT_ONCE = 3;

const GUESSED = 0.5 * 2 ** 30;
/** Bytes that say something about the speed. */
const ENOUGH = 64 * 2 ** 20;

/** Reads weights where they lie, or what was made of them before. */
export class WeightReader {
  readonly #mounted: Mounted;
  readonly #costly: ReadonlySet<string>;
  readonly #uploads: Uploads;
  readonly #products: DeferredProducts['products'];
  /** Bytes of costly locations, which the browser keeps on the disk where there are many. */
  readonly #made = new Map<string, Blob>();
  readonly #kept = new WeightSource(this.#made);

  /**
   * @param costly locations whose bytes take long to make, so that they are made only once of those that are read again and again
   * @param products what buffers are to add to what is read, by location
   */
  constructor(
    mounted: Mounted,
    costly: ReadonlySet<string>,
    uploads: Uploads,
    products: DeferredProducts['products'] = new Map(),
  ) {
    this.#products = products;
    this.#mounted = mounted;
    this.#costly = costly;
    this.#uploads = uploads;
  }

  /**
   * Fills buffers, each part by part, a few at one time.
   * @param again whether these weights will be read again
   * @param settle resolves once the device has what was written so far; needed where there is much
   * @throws StudioError `checkpoint_incomplete` when a file cannot be read (any more)
   */
  async read(
    weights: readonly BlockWeight[],
    buffers: readonly WeightBuffer[],
    again = false,
    settle?: () => Promise<void>,
  ): Promise<void> {
    const begun = performance.now();
    let waiting = 0;
    const left = weights.entries();
    const locations = weights.map(({ location }) => location);
    const products = new ProductReader(this.#products, locations, this.#mounted.source);
    const work = async () => {
      for (const [i, weight] of left) {
        products.begin(weight.location);
        await this.#readOne(weight, buffers[i], again);
        const product = await products.productFor(weight.location);
        if (product) {
          buffers[i].add(weight.type, product);
        }
        this.#uploads.bytes += weight.length;
        this.#uploads.tensors += 1;
        waiting += weight.length;
        if (settle && waiting > WAITING) {
          waiting = 0;
          await settle();
        }
      }
    };
    // All have ended before a failure is told, as nothing may be written into buffers that are used again.
    const ended = await Promise.allSettled(Array.from({ length: AT_ONCE }, work));
    const failed = ended.find((one) => one.status === 'rejected');
    if (failed) {
      throw failed.reason;
    }
    this.#uploads.ms += performance.now() - begun;
  }

  close(): void {
    this.#made.clear();
    this.#kept.close();
  }

  async #readOne(weight: BlockWeight, buffer: WeightBuffer, again: boolean): Promise<void> {
    const { location, offset, length } = weight;
    const key = `${location} ${offset}`;
    if (this.#made.has(key)) {
      await this.#readKept(key, length, buffer);
      return;
    }
    const parts: Blob[] = [];
    const isKept = again && this.#costly.has(location);
    let at = 0;
    const take = (part: Bytes) => {
      buffer.write(at, part);
      at += part.length;
      if (isKept) {
        parts.push(new Blob([part]));
      }
    };
    for await (const part of this.#mounted.parts(location, offset, offset + length)) {
      take(part);
    }
    if (isKept) {
      this.#made.set(key, new Blob(parts));
    }
  }

  async #readKept(file: string, length: number, buffer: WeightBuffer): Promise<void> {
    for (let begin = 0; begin < length; begin += LONGEST) {
      const bytes = await this.#kept.read({ file, begin, end: Math.min(length, begin + LONGEST) });
      buffer.write(begin, bytes);
      this.#kept.free(bytes);
    }
  }
}

/**
 * @param take gives the buffers for a block's weights, in their order
 * @param options as of {@link WeightReader.read}
 */
export async function place(
  { weights }: Block,
  reader: WeightReader,
  take: (lengths: readonly number[]) => readonly WeightBuffer[],
  { again = false, settle }: { again?: boolean; settle?: () => Promise<void> } = {},
): Promise<PlacedWeights> {
  const buffers = take(weights.map(({ length }) => length));
  await reader.read(weights, buffers, again, settle);
  const tensors = weights.map(({ port, type, dims }, i) => [port, buffers[i].view(type, dims)] as const);
  return { tensors: Object.fromEntries(tensors), buffers };
}

/**
 * The weights of streamed blocks, each of which is used once in every run. There are slots for a few; as soon as the device is done with one,
 * the next block's weights are written into its buffers. Blocks of other sizes get other buffers, in the same memory.
 */
export class WeightStream {
  readonly #memory: BlockMemory;
  readonly #blocks: readonly Block[];
  readonly #order: readonly number[];
  readonly #read: WeightReader;
  readonly #limit: number;
  /** Resolve when a slot is to be filled again. */
  readonly #vacant: Promise<unknown>[];
  /** Buffers that nobody uses. */
  readonly #spare: WeightBuffer[] = [];
  readonly #ahead: { block: number; weights: Promise<PlacedWeights> }[] = [];
  /** The last of the loads, which follow one another. */
  #last: Promise<unknown> = Promise.resolve();
  /** Index in the order of what is to be loaded next. */
  #next = 0;
  #held = 0;
  #isOver = false;

  /**
   * @param order indices of the streamed blocks, in the order in which they run
   * @param limit bytes for all slots together
   */
  constructor(
    memory: BlockMemory,
    blocks: readonly Block[],
    order: readonly number[],
    reader: WeightReader,
    limit: number,
  ) {
    this.#memory = memory;
    this.#blocks = blocks;
    this.#order = order;
    this.#read = reader;
    this.#limit = limit;
    this.#vacant = Array.from({ length: Math.min(SLOTS, order.length) }, () => Promise.resolve());
  }

  /** Begins to load what is used first. */
  begin(): void {
    this.#fill();
  }

  /** The weights of a block, to be given back. */
  async take(block: number): Promise<PlacedWeights> {
    if (this.#ahead.at(0)?.block !== block) {
      // The run before was broken off.
      await this.#discard();
      this.#next = this.#order.indexOf(block);
      this.#fill();
    }
    const first = this.#ahead.shift();
    if (!first) {
      throw new Error('All slots are in use.');
    }
    try {
      return await first.weights;
    } catch (error) {
      this.#vacant.push(Promise.resolve());
      throw error;
    }
  }

  /** To be called when the block's commands are submitted: its slot is filled again once the device has `computed` them. */
  give({ buffers }: PlacedWeights, computed: Promise<void>): void {
    const done = computed.then(() => {
      this.#spare.push(...buffers);
    });
    done.catch(() => undefined);
    this.#vacant.push(done);
    this.#fill();
  }

  async dispose(): Promise<void> {
    this.#isOver = true;
    await this.#discard();
    await Promise.allSettled(this.#vacant);
    this.#spare.splice(0).forEach((buffer) => {
      buffer.dispose();
    });
  }

  async #discard(): Promise<void> {
    for (const { weights } of this.#ahead.splice(0)) {
      try {
        this.#spare.push(...(await weights).buffers);
      } catch {
        // Whoever needs it reads it again and sees the error.
      }
      this.#vacant.push(Promise.resolve());
    }
  }

  #fill(): void {
    for (let vacant = this.#isOver ? undefined : this.#vacant.shift(); vacant; vacant = this.#vacant.shift()) {
      const block = this.#order[this.#next];
      this.#next = (this.#next + 1) % this.#order.length;
      const weights = Promise.all([vacant, this.#last.catch(() => undefined)]).then(() => this.#load(block));
      // A failure is reported when the block is needed.
      weights.catch(() => undefined);
      this.#last = weights;
      this.#ahead.push({ block, weights });
    }
  }

  async #load(block: number): Promise<PlacedWeights> {
    let taken: readonly WeightBuffer[] = [];
    try {
      return await place(this.#blocks[block], this.#read, (lengths) => (taken = this.#buffers(lengths)), {
        again: true,
      });
    } catch (error) {
      this.#spare.push(...taken);
      throw error;
    }
  }

  /** Spare buffers of exactly these sizes, and new ones in the place of others. */
  #buffers(lengths: readonly number[]): WeightBuffer[] {
    const found = lengths.map((length) => {
      const at = this.#spare.findIndex(({ bytes }) => bytes === onDevice(length));
      return at < 0 ? null : this.#spare.splice(at, 1)[0];
    });
    const missing = lengths.reduce((sum, length, i) => sum + (found[i] ? 0 : onDevice(length)), 0);
    while (this.#held + missing > this.#limit && this.#spare.length > 0) {
      const [other] = this.#spare.splice(0, 1);
      this.#held -= other.bytes;
      other.dispose();
    }
    this.#held += missing;
    return lengths.map((length, i) => found[i] ?? this.#memory.take(length));
  }
}
