/**
 * A network as blocks with bound weights: one session for each kind of block, run with the weights of one block after another. Values stay on the
 * device from block to block. To whoever runs it, it is a network like any other.
 */
import type * as Ort from 'onnxruntime-web';
import { cancelled } from '../core/errors.ts';
import type { Block, BlockGraphs, BlockWeight, External, Graph } from '../graphs/graph.ts';
import type { DeviceTensor } from './arithmetic.ts';
import type { BlockMemory } from './block_memory.ts';
import { layOut, type BlockPlacement } from './block_placement.ts';
import { changesBetween, type WeightChanges } from './weight_changes.ts';
import { WeightReader, WeightStream, place, type PlacedWeights, type Uploads } from './block_weights.ts';
import { deferProducts } from './device_products.ts';
import type { Network, TensorPort } from './runtime.ts';
import type { Mounted } from '../weights/virtual_file.ts';

export interface BlockSurroundings {
  memory: BlockMemory;
  /** What blocks' weights are read from, until it is closed. */
  mount(externals: readonly External[]): Mounted;
  /** A session for one kind of block. */
  open(graph: Pick<Graph, 'bytes' | 'externals'>): Promise<Network>;
  /** A value between blocks, f32. */
  empty(dims: readonly number[]): DeviceTensor;
  /** Whether the run is to end before its next block. */
  isCancelled(): boolean;
  /** Learns how long weights take. */
  uploads: Uploads;
}

/** Bytes of weights that may be on their way to the device before it is waited for. */
const MOST_WAITING = 64 * 2 ** 20;

export class BlockNetwork implements Network {
  readonly inputs: TensorPort[];
  readonly outputs: TensorPort[];
  #graphs: BlockGraphs;
  /** Whether equal blocks run several at a time. */
  readonly #isJoined: boolean;
  readonly #isResident: readonly boolean[];
  readonly #slotBytes: number;
  readonly #around: BlockSurroundings;
  readonly #kinds: Network[] = [];
  /** Of the blocks whose weights stay. */
  readonly #resident = new Map<number, PlacedWeights>();
  /** Of those that are read at each run, and where they are read from. */
  #streamed: { stream: WeightStream; reader: WeightReader; mounted: Mounted } | null = null;
  readonly #values = new Map<string, DeviceTensor>();
  /** Each once, though values share them. */
  readonly #tensors: DeviceTensor[] = [];
  /** Blocks whose commands the device was given while weights are streamed. */
  #submitted = 0;
  /** When it had computed them all; Infinity while it has not. */
  #idleSince = 0;

  private constructor(graphs: BlockGraphs, placement: BlockPlacement, around: BlockSurroundings) {
    this.inputs = graphs.inputs.map(({ name, dtype, dims }) => ({ name, type: dtype, dims }));
    this.outputs = graphs.outputs.map(({ name, dtype, dims }) => ({ name, type: dtype, dims }));
    // What is streamed comes block by block, so that little has to be there at one time.
    this.#isJoined = placement.streamedBytes === 0;
    this.#graphs = this.#runOf(graphs);
    this.#isResident = this.#isJoined ? this.#graphs.blocks.map(() => true) : placement.isResident;
    this.#slotBytes = placement.slotBytes;
    this.#around = around;
  }

  /** Brings the weights that stay to the device and opens the sessions. */
  static async open(graphs: BlockGraphs, placement: BlockPlacement, around: BlockSurroundings): Promise<BlockNetwork> {
    const network = new BlockNetwork(graphs, placement, around);
    try {
      await network.#load();
      return network;
    } catch (error) {
      await network.release();
      throw error;
    }
  }

  async #load(): Promise<void> {
    const [around, graphs] = [this.#around, this.#graphs];
    const isResident = this.#isResident;
    const { memory } = around;
    const { tensors, places } = layOut(graphs);
    this.#tensors.push(...tensors.map((dims) => around.empty(dims)));
    places.forEach((tensor, value) => this.#values.set(value, this.#tensors[tensor]));
    const take = (lengths: readonly number[]) => lengths.map((length) => memory.take(length));
    const settle = () => memory.settle();
    await this.#reading(graphs.externals, async (reader) => {
      let waiting = 0;
      for (const [index, block] of graphs.blocks.entries()) {
        if (isResident[index]) {
          this.#resident.set(index, await place(block, reader, take, { settle }));
          // Writes that wait for the device are held in memory that nobody counts.
          waiting += block.weightBytes;
          if (waiting > MOST_WAITING) {
            await settle();
            waiting = 0;
          }
        }
      }
    });
    // Afterwards, as the runtime has the device rearrange a session's own weights, and what is written next would wait for that.
    for (const kind of graphs.kinds) {
      this.#kinds.push(await around.open(kind));
    }
    this.#stream();
  }

  /** As this network runs them. */
  #runOf(graphs: BlockGraphs): BlockGraphs {
    return (this.#isJoined && graphs.joined?.()) || graphs;
  }

  /** Gives what is read from and the memory for it back afterwards. */
  async #reading(externals: readonly External[], work: (reader: WeightReader) => Promise<void>): Promise<void> {
    const { memory, uploads } = this.#around;
    const deferred = memory.addsProducts ? deferProducts(externals) : { externals, products: undefined };
    const mounted = this.#around.mount(deferred.externals);
    try {
      await work(new WeightReader(mounted, new Set(), uploads, deferred.products));
    } finally {
      mounted.close();
    }
  }

  /** Begins to stream what does not stay. */
  #stream(): void {
    const { blocks, externals } = this.#graphs;
    const order = this.#isResident.flatMap((stays, index) => (stays ? [] : [index]));
    if (order.length > 0) {
      const mounted = this.#around.mount(externals);
      const reader = new WeightReader(mounted, costlyOf(externals), this.#around.uploads);
      const stream = new WeightStream(this.#around.memory, blocks, order, reader, this.#slotBytes);
      this.#streamed = { stream, reader, mounted };
      stream.begin();
    }
  }

  async #endStream(): Promise<void> {
    await this.#streamed?.stream.dispose();
    this.#streamed?.reader.close();
    this.#streamed?.mounted.close();
    this.#streamed = null;
  }

  /** Names of the weights that can be written again. */
  get weightNames(): ReadonlySet<string> {
    return new Set(this.#graphs.blocks.flatMap(({ weights }) => weights.map(({ name }) => name)));
  }

  /** Which of its weights differ in `graphs`; null if that is a different network. */
  changesTo(graphs: BlockGraphs): WeightChanges | null {
    return changesBetween(this.#graphs, this.#runOf(graphs));
  }

  /**
   * Writes the changed weights, and no others. Streamed ones are read from their new places from now on.
   * @param mount as of {@link BlockSurroundings}, from where `graphs` say
   * @throws StudioError `checkpoint_incomplete` when a file cannot be read (any more), after which the network is only to be released
   */
  async change({ graphs, weights }: WeightChanges, mount: BlockSurroundings['mount']): Promise<void> {
    const { memory } = this.#around;
    this.#around.mount = mount;
    const changed = [...this.#resident].flatMap(([index, { buffers }]) =>
      weights[index].map((place) => ({ weight: graphs.blocks[index].weights[place], buffer: buffers[place] })),
    );
    const needed = new Set(changed.map(({ weight }) => weight.location));
    await this.#reading(
      graphs.externals.filter(({ location }) => needed.has(location)).map((one) => only(one, changed)),
      async (reader) => {
        const [all, buffers] = [changed.map(({ weight }) => weight), changed.map(({ buffer }) => buffer)];
        await reader.read(all, buffers, false, () => memory.settle());
        await memory.settle();
      },
    );
    this.#graphs = graphs;
    if (this.#streamed) {
      await this.#endStream();
      this.#stream();
    }
  }

  /** @throws StudioError `cancelled` between two blocks */
  async run(inputs: Record<string, Ort.Tensor>, outputs: Record<string, Ort.Tensor>): Promise<void> {
    const tensorOf = (value: string) => {
      const tensor = inputs[value] ?? outputs[value] ?? this.#values.get(value)?.ort;
      if (!tensor) {
        throw new TypeError(`The network is run without ${value}.`);
      }
      return tensor;
    };
    const bound = (ports: Block['inputs']) =>
      Object.fromEntries(ports.map(({ port, value }) => [port, tensorOf(value)] as const));
    for (const [index, block] of this.#graphs.blocks.entries()) {
      if (this.#around.isCancelled()) {
        throw cancelled();
      }
      const resident = this.#resident.get(index);
      const asked = performance.now();
      const weights = resident ?? (await this.#streamed?.stream.take(index));
      if (!resident) {
        this.#around.uploads.waitedMs += Math.max(0, performance.now() - Math.max(asked, this.#idleSince));
      }
      try {
        await this.#kinds[block.kind].run({ ...bound(block.inputs), ...weights?.tensors }, bound(block.outputs));
      } finally {
        const computed = this.#streamed ? this.#computed() : null;
        // A lost device fails whatever is run next.
        computed?.catch(() => undefined);
        if (!resident && weights && computed) {
          this.#streamed?.stream.give(weights, computed);
        }
      }
    }
  }

  /** Resolves once the device has computed all that was submitted to it. */
  async #computed(): Promise<void> {
    this.#idleSince = Infinity;
    this.#submitted += 1;
    const own = this.#submitted;
    await this.#around.memory.settle();
    if (own === this.#submitted) {
      this.#idleSince = performance.now();
    }
  }

  async release(): Promise<void> {
    await this.#endStream();
    for (const kind of this.#kinds.splice(0)) {
      await kind.release();
    }
    for (const { buffers } of this.#resident.values()) {
      buffers.forEach((buffer) => {
        buffer.dispose();
      });
    }
    this.#resident.clear();
    this.#tensors.splice(0).forEach((tensor) => {
      tensor.dispose();
    });
  }
}

/** A location with the ranges that are read of it. */
function only(external: External, changed: readonly { weight: BlockWeight }[]): External {
  return external.kind === 'file'
    ? {
        ...external,
        ranges: changed.flatMap(({ weight: { location, offset, length } }) =>
          location === external.location ? [[offset, offset + length] as [number, number]] : [],
        ),
      }
    : external;
}

/** Locations whose bytes are not merely read or widened. */
function costlyOf(externals: readonly External[]): ReadonlySet<string> {
  const isCostly = (external: External) => {
    if (external.kind !== 'cast' && external.kind !== 'quantised') {
      return false;
    }
    const { quantised, blocks, deltas, gains, framesFirst } = external.tensor;
    const isAsStored = external.kind === 'quantised' ? quantised?.bits === external.bits : !quantised && !blocks;
    return !isAsStored || [deltas, gains, framesFirst].some((change) => change !== undefined);
  };
  return new Set(externals.filter(isCostly).map(({ location }) => location));
}
