/** The networks of one checkpoint that are on the device: one of each name, made when it is first asked for. */
import type { FloatType, Graph, Port, Provider } from '../graphs/graph.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import type { Engine } from './engine.ts';
import type { Network } from './runtime.ts';

export interface ShelvedNetwork extends Network {
  outputs: Port[];
}

/** Shapes are static, so a network of another shape takes the place of the one that was there. */
export class NetworkShelf {
  /** Called with a network's name while its weights are being brought to the device. */
  onLoading: ((name: string) => void) | null = null;
  readonly #networks = new Map<string, { key: string; network: ShelvedNetwork }>();

  constructor(
    readonly engine: Engine,
    readonly files: CheckpointFiles,
  ) {}

  async get(
    name: string,
    shape: Record<string, number>,
    build: (options: { provider: Provider; dtype: FloatType }) => Graph,
  ): Promise<ShelvedNetwork> {
    const key = JSON.stringify(shape);
    const existing = this.#networks.get(name);
    if (existing?.key === key) {
      return existing.network;
    }
    await this.drop(name);
    this.onLoading?.(name);
    const graph = build({ provider: this.engine.provider, dtype: this.engine.report.precision });
    const network = { ...(await this.engine.createNetwork(graph, await this.#blobs(graph))), outputs: graph.outputs };
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
  async #blobs(graph: Graph): Promise<Map<string, Blob>> {
    const blobs = new Map<string, Blob>();
    for (const external of graph.externals) {
      if (external.kind !== 'fill') {
        const path = external.kind === 'file' ? external.file : external.tensor.file;
        blobs.set(path, await this.files.blob(path));
      }
    }
    return blobs;
  }
}
