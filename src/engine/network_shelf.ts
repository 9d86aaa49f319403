/** A checkpoint's networks on the device: one of each name, created on first use. */
import { filesOf, type FloatType, type Provider } from '../graphs/graph.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import type { Engine } from './engine.ts';
import type { Network, RunnableGraph } from './runtime.ts';

/** Weights being loaded onto the device. */
export interface Loading {
  network: string;
  /** Bytes of this network loaded so far, and in total. */
  bytes: number;
  total: number;
}

/** Shapes are static, so a network of another shape replaces the previous one. */
export class NetworkShelf {
  /** Called repeatedly while a network's weights are loaded, first with 0 bytes and last with all. */
  onLoading: ((loading: Loading) => void) | null = null;
  /** Bytes that a network's weights may take, by its name: such a network runs in blocks, if it can be cut into any. Others are whole. */
  blockBytes: ReadonlyMap<string, number> = new Map();
  /** Ends runs of networks in blocks between two of them. */
  signal: AbortSignal | null = null;
  readonly #networks = new Map<string, { key: string; network: Network; budget: number | null | undefined }>();

  constructor(
    readonly engine: Engine,
    /** Where the weights of graphs are read from. */
    readonly files: Pick<CheckpointFiles, 'blob'>,
  ) {}

  async get(
    name: string,
    shape: Record<string, number>,
    build: (options: { provider: Provider; dtype: FloatType }) => RunnableGraph,
  ): Promise<Network> {
    const key = JSON.stringify(shape);
    const allowed = this.#allowed(name);
    const existing = this.#networks.get(name);
    if (existing?.key === key && (existing.budget === undefined || existing.budget === allowed)) {
      return existing.network;
    }
    await this.drop(name);
    const graph = build({ provider: this.engine.provider, dtype: this.engine.report.precision });
    const blobs = await this.#blobs(graph);
    const cut = allowed === null ? undefined : graph.blocks?.();
    const total = graph.weightBytes ?? [...blobs.values()].reduce((sum, { size }) => sum + size, 0);
    let bytes = 0;
    const report = () => this.onLoading?.({ network: name, bytes, total });
    report();
    const start = performance.now();
    let isLoaded = false;
    const onBytes = (more: number) => {
      // A range may be requested more than once, and that of a streamed block at each run.
      bytes = Math.min(bytes + more, total);
      if (!isLoaded) {
        report();
      }
    };
    const network =
      cut && allowed !== null
        ? await this.engine.createBlocks(cut, blobs, {
            budget: allowed,
            onBytes,
            isCancelled: () => this.signal?.aborted ?? false,
          })
        : await this.engine.createNetwork(graph, blobs, onBytes);
    isLoaded = true;
    // Goes into the browser's timeline, where e2e/library_scale.spec.ts also reads it.
    performance.measure(`darkroom:session:${name}`, { start, detail: { bytes: total } });
    bytes = total;
    report();
    this.#networks.set(name, { key, network, budget: graph.blocks ? allowed : undefined });
    return network;
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
