/** A checkpoint's networks on the device: one of each name, created on first use. */
import { filesOf, type BlockGraphs, type FloatType, type Provider } from '../graphs/graph.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import type { BlockNetwork } from './block_network.ts';
import type { Engine } from './engine.ts';
import type { Network, RunnableGraph } from './runtime.ts';
import type { WeightChanges } from './weight_changes.ts';

/** Weights being loaded onto the device. */
export interface Loading {
  network: string;
  /** Bytes of this network loaded so far, and in total. */
  bytes: number;
  total: number;
}

interface Kept {
  key: string;
  network: Network;
  /** That it was cut for; undefined for one that is never cut. */
  budget: number | null | undefined;
  /** The same network where its weights can be written again. */
  blocks: BlockNetwork | null;
  /** Whether its weights are due to be replaced. */
  isOld: boolean;
}

/** Shapes are static, so a network of another shape replaces the previous one. */
export class NetworkShelf {
  /** Called repeatedly while a network's weights are loaded, first with 0 bytes and last with all. */
  onLoading: ((loading: Loading) => void) | null = null;
  /** Bytes that a network's weights may take, by its name: such a network runs in blocks, if it can be cut into any. Others are whole. */
  blockBytes: ReadonlyMap<string, number> = new Map();
  /** See {@link GraphOptions.plainConvolutions}. */
  plainConvolutions = false;
  /** Ends runs of networks in blocks between two of them. */
  signal: AbortSignal | null = null;
  readonly #networks = new Map<string, Kept>();

  constructor(
    readonly engine: Engine,
    /** Where the weights of graphs are read from. */
    readonly files: Pick<CheckpointFiles, 'blob'>,
    /** Networks whose weights LoRAs change. A GPU has them in buffers that can be written again. */
    readonly adjustable: ReadonlySet<string> = new Set(),
  ) {}

  async get(
    name: string,
    shape: Record<string, number>,
    build: (options: { provider: Provider; dtype: FloatType; plainConvolutions: boolean }) => RunnableGraph,
  ): Promise<Network> {
    const { plainConvolutions } = this;
    const key = JSON.stringify([shape, plainConvolutions]);
    const allowed = this.#allowed(name);
    const existing = this.#networks.get(name);
    const isShaped = existing?.key === key && (existing.budget === undefined || existing.budget === allowed);
    if (isShaped && !existing.isOld) {
      return existing.network;
    }
    const start = performance.now();
    const { provider, report } = this.engine;
    const graph = build({ provider, dtype: report.precision, plainConvolutions });
    const blobs = await this.#blobs(graph);
    const cut = this.#cut(name, graph, isShaped ? existing.blocks : null);
    if (isShaped && existing.blocks && cut) {
      const changes = existing.blocks.changesTo(cut.graphs);
      if (changes) {
        await this.#write(name, existing.blocks, changes, blobs, start);
        existing.isOld = false;
        return existing.network;
      }
    }
    await this.drop(name);
    const total = graph.weightBytes ?? [...blobs.values()].reduce((sum, { size }) => sum + size, 0);
    const loaded = this.#progress(name, total);
    const blocks =
      cut &&
      (await this.engine.createBlocks(cut.graphs, blobs, {
        budget: cut.budget,
        onBytes: loaded.add,
        isCancelled: () => this.signal?.aborted ?? false,
      }));
    const network = blocks ?? (await this.engine.createNetwork(graph, blobs, loaded.add));
    // Goes into the browser's timeline, where e2e/library_scale.spec.ts also reads it.
    performance.measure(`darkroom:session:${name}`, { start, detail: { bytes: total } });
    loaded.end();
    this.#networks.set(name, { key, network, blocks, budget: graph.blocks ? allowed : undefined, isOld: false });
    return network;
  }

  /** Marks this network's weights as changed: it is updated, or made anew, when it is next asked for. */
  async renew(name: string): Promise<void> {
    const existing = this.#networks.get(name);
    if (existing?.blocks) {
      existing.isOld = true;
    } else {
      await this.drop(name);
    }
  }

  async #write(
    name: string,
    network: BlockNetwork,
    changes: WeightChanges,
    blobs: Map<string, Blob>,
    start: number,
  ): Promise<void> {
    const { bytes } = changes;
    const written = this.#progress(name, bytes);
    try {
      await this.engine.changeWeights(network, changes, blobs, written.add);
    } catch (error) {
      // Some of its weights are old ones.
      await this.drop(name);
      throw error;
    }
    performance.measure(`darkroom:weights:${name}`, { start, detail: { bytes } });
    written.end();
  }

  /** Tells of the weights that arrive. */
  #progress(network: string, total: number) {
    let [bytes, isOver] = [0, false];
    const report = () => this.onLoading?.({ network, bytes, total });
    report();
    return {
      add: (more: number) => {
        // A range may be requested more than once, and that of a streamed block at each run.
        bytes = Math.min(bytes + more, total);
        if (!isOver) {
          report();
        }
      },
      end: () => {
        isOver = true;
        bytes = total;
        report();
      },
    };
  }

  /**
   * The graph in blocks, where that is how the network is to run.
   * @param before the network so far: what could be written again there stays so
   */
  #cut(
    name: string,
    graph: RunnableGraph,
    before: BlockNetwork | null,
  ): { graphs: BlockGraphs; budget: number } | null {
    const allowed = this.#allowed(name);
    const blocks = allowed === null ? undefined : graph.blocks?.();
    if (blocks && allowed !== null) {
      return { graphs: blocks, budget: allowed };
    }
    const { blocks: mode, provider } = this.engine;
    const { repeated = new Set<string>() } = graph;
    const isWanted = this.adjustable.has(name) || repeated.size > 0;
    const isBound = isWanted && (mode === 'auto' ? provider === 'webgpu' : mode !== 'off');
    const whole = isBound ? graph.adjustable?.(new Set([...(before?.weightNames ?? []), ...repeated])) : undefined;
    return whole ? { graphs: whole, budget: Infinity } : null;
  }

  /** {@link blockBytes}, where the engine leaves it to that. */
  #allowed(name: string): number | null {
    const { blocks, provider } = this.engine;
    const settled = { off: null, resident: Infinity, streamed: 0 };
    return blocks === 'auto' ? (provider === 'webgpu' ? (this.blockBytes.get(name) ?? null) : null) : settled[blocks];
  }

  /** Names of the networks that are on the device. */
  get names(): string[] {
    return [...this.#networks.keys()];
  }

  async drop(name: string): Promise<void> {
    const existing = this.#networks.get(name);
    this.#networks.delete(name);
    await existing?.network.release();
  }

  async clear(): Promise<void> {
    for (const name of [...this.#networks.keys()]) {
      await this.drop(name);
    }
  }

  /** The checkpoint's files that contain the graph's weights. */
  async #blobs(graph: RunnableGraph): Promise<Map<string, Blob>> {
    const blobs = new Map<string, Blob>();
    for (const path of new Set(graph.externals.flatMap(filesOf))) {
      blobs.set(path, await this.files.blob(path));
    }
    return blobs;
  }
}
