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
  readonly #networks = new Map<string, { key: string; network: Network }>();

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
    const existing = this.#networks.get(name);
    if (existing?.key === key) {
      return existing.network;
    }
    await this.drop(name);
    const graph = build({ provider: this.engine.provider, dtype: this.engine.report.precision });
    const blobs = await this.#blobs(graph);
    const total = graph.weightBytes ?? [...blobs.values()].reduce((sum, { size }) => sum + size, 0);
    let bytes = 0;
    const report = () => this.onLoading?.({ network: name, bytes, total });
    report();
    const start = performance.now();
    const network = await this.engine.createNetwork(graph, blobs, (more) => {
      // A range may be requested more than once.
      bytes = Math.min(bytes + more, total);
      report();
    });
    // Goes into the browser's timeline, where e2e/library_scale.spec.ts also reads it.
    performance.measure(`darkroom:session:${name}`, { start, detail: { bytes: total } });
    bytes = total;
    report();
    this.#networks.set(name, { key, network });
    return network;
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
