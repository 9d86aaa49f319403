/**
 * A network as blocks with bound weights: one session for each kind of block, run with the weights of one block after another. Values stay on the
 * device from block to block. To whoever runs it, it is a network like any other.
 */
import type * as Ort from 'onnxruntime-web';
import { cancelled } from '../core/errors.ts';
import type { Block, BlockGraphs, External, Graph } from '../graphs/graph.ts';
import type { DeviceTensor } from './arithmetic.ts';
import type { BlockMemory } from './block_memory.ts';
import { layOut, type BlockPlacement } from './block_placement.ts';
import { WeightReader, WeightStream, place, type PlacedWeights, type Uploads } from './block_weights.ts';
import type { Network, TensorPort } from './runtime.ts';
import type { Mounted } from '../weights/virtual_file.ts';

export interface BlockSurroundings {
  memory: BlockMemory;
  /** What the blocks' weights are read from; belongs to the network from now on. */
  mounted: Mounted;
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
  readonly #blocks: readonly Block[];
  readonly #around: BlockSurroundings;
  readonly #reader: WeightReader;
  readonly #kinds: Network[] = [];
  /** Of the blocks whose weights stay. */
  readonly #resident = new Map<number, PlacedWeights>();
  readonly #stream: WeightStream | null;
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
    this.#blocks = graphs.blocks;
    this.#reader = new WeightReader(around.mounted.files, costlyOf(graphs.externals), around.uploads);
    this.#around = around;
    const order = placement.isResident.flatMap((stays, index) => (stays ? [] : [index]));
    this.#stream =
      order.length === 0
        ? null
        : new WeightStream(around.memory, graphs.blocks, order, this.#reader, placement.slotBytes);
  }

  /** Opens the sessions and brings the weights that stay to the device. */
  static async open(graphs: BlockGraphs, placement: BlockPlacement, around: BlockSurroundings): Promise<BlockNetwork> {
    const network = new BlockNetwork(graphs, placement, around);
    try {
      await network.#load(graphs, placement);
      return network;
    } catch (error) {
      await network.release();
      throw error;
    }
  }

  async #load(graphs: BlockGraphs, { isResident }: BlockPlacement): Promise<void> {
    const around = this.#around;
    const { memory } = around;
    for (const kind of graphs.kinds) {
      this.#kinds.push(await around.open(kind));
    }
    const { tensors, places } = layOut(graphs);
    this.#tensors.push(...tensors.map((dims) => around.empty(dims)));
    places.forEach((tensor, value) => this.#values.set(value, this.#tensors[tensor]));
    let waiting = 0;
    for (const [index, block] of this.#blocks.entries()) {
      if (isResident[index]) {
        const take = (lengths: readonly number[]) => lengths.map((length) => memory.take(length));
        this.#resident.set(index, await place(block, this.#reader, take));
        // Writes that wait for the device are held in memory that nobody counts.
        waiting += block.weightBytes;
        if (waiting > MOST_WAITING) {
          await memory.settle();
          waiting = 0;
        }
      }
    }
    this.#stream?.begin();
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
    for (const [index, block] of this.#blocks.entries()) {
      if (this.#around.isCancelled()) {
        throw cancelled();
      }
      const resident = this.#resident.get(index);
      const asked = performance.now();
      const weights = resident ?? (await this.#stream?.take(index));
      if (!resident) {
        this.#around.uploads.waitedMs += Math.max(0, performance.now() - Math.max(asked, this.#idleSince));
      }
      try {
        await this.#kinds[block.kind].run({ ...bound(block.inputs), ...weights?.tensors }, bound(block.outputs));
      } finally {
        const computed = this.#stream ? this.#computed() : null;
        // A lost device fails whatever is run next.
        computed?.catch(() => undefined);
        if (!resident && weights && computed) {
          this.#stream?.give(weights, computed);
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
    await this.#stream?.dispose();
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
    this.#reader.close();
    this.#around.mounted.close();
  }
}

/** Locations whose bytes are not merely read or widened. */
function costlyOf(externals: readonly External[]): ReadonlySet<string> {
  const isCostly = (external: External) => {
    if (external.kind !== 'cast' && external.kind !== 'quantised') {
      return false;
    }
    const { quantised, blocks, deltas, gains } = external.tensor;
    const isAsStored = external.kind === 'quantised' ? quantised?.bits === external.bits : !quantised && !blocks;
    return !isAsStored || deltas !== undefined || gains !== undefined;
  };
  return new Set(externals.filter(isCostly).map(({ location }) => location));
}
