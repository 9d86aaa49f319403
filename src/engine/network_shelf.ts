/** The networks of one checkpoint that are on the device: one of each name, made when it is first asked for. */
import { filesOf, type FloatType, type Provider } from '../graphs/graph.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import type { Engine } from './engine.ts';
import type { Network, RunnableGraph } from './runtime.ts';

/** Shapes are static, so a network of another shape takes the place of the one that was there. */
export class NetworkShelf {
  /** Called with a network's name while its weights are being brought to the device. */
  onLoading: ((name: string) => void) | null = null;
  readonly #networks = new Map<string, { key: string; network: Network }>();

  constructor(
    readonly engine: Engine,
    /** Where graphs' weights are read from. */
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
    this.onLoading?.(name);
    const graph = build({ provider: this.engine.provider, dtype: this.engine.report.precision });
    const network = await this.engine.createNetwork(graph, await this.#blobs(graph));
    this.#networks.set(name, { key, network });
    return network;
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

  /** The checkpoint's files that the graph's weights lie in. */
  async #blobs(graph: RunnableGraph): Promise<Map<string, Blob>> {
    const blobs = new Map<string, Blob>();
    for (const path of new Set(graph.externals.flatMap(filesOf))) {
      blobs.set(path, await this.files.blob(path));
    }
    return blobs;
  }
}
