/** What opened checkpoints have in common, whatever they make: everything but what they are asked for. */
import type { CheckpointSummary, Estimate, EstimateRequest, Precision } from '../../core/model.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Loading } from '../../engine/network_shelf.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { fingerprint } from '../../weights/fingerprint.ts';
import type { Circumstances, ModelLora } from '../family.ts';
import { estimate, plannedNetworks, type EstimatedNetworks } from './estimate.ts';
import type { CommonNetworks } from './networks.ts';

/** What such a checkpoint needs from its networks. */
export type OpenedNetworks = EstimatedNetworks &
  Pick<CommonNetworks, 'shelf' | 'provenance' | 'useLoras' | 'checkLora' | 'clear'>;

export class OpenedCheckpoint<Networks extends OpenedNetworks> {
  /** How what was made last was sampled, for recordings. */
  protected used: Record<string, unknown> = {};
  /** SHA-256 of weight files, by path. */
  readonly #hashes = new Map<string, Promise<string>>();

  constructor(
    readonly files: CheckpointFiles,
    readonly engine: Engine,
    readonly networks: Networks,
    readonly scheduler: SchedulerConfig,
    readonly summary: CheckpointSummary,
  ) {}

  set onLoading(listener: ((loading: Loading) => void) | null) {
    this.networks.shelf.onLoading = listener;
  }

  get onDevice(): readonly string[] {
    return this.networks.shelf.names;
  }

  async provenance(): Promise<Record<string, unknown>> {
    const { files, facts } = await this.networks.provenance();
    const { name, ref, pipelineClass } = this.summary;
    const sha256: Record<string, string> = {};
    for (const file of files) {
      sha256[file] = await this.#hash(file);
    }
    return {
      checkpoint: { name, ref, pipeline_class: pipelineClass, sha256 },
      scheduler_config: this.scheduler.values,
      ...facts,
      ...this.used,
    };
  }

  /** Hashes the files beside the sampling, so that it is done when the result is: gigabytes take seconds. Errors come when hashes are needed. */
  protected beginHashing(): void {
    const hashAll = async () => {
      for (const file of (await this.networks.provenance()).files) {
        await this.#hash(file);
      }
    };
    hashAll().catch(() => undefined);
  }

  #hash(file: string): Promise<string> {
    let hash = this.#hashes.get(file);
    if (!hash) {
      hash = fingerprint(this.files, file);
      this.#hashes.set(file, hash);
      // The file may be back for the next result.
      hash.catch(() => this.#hashes.delete(file));
    }
    return hash;
  }

  useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    return this.networks.useLoras(loras);
  }

  checkLora(lora: ModelLora): Promise<string | null> {
    return this.networks.checkLora(lora);
  }

  estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate> {
    return estimate(this.networks, this.summary.variants, request, circumstances);
  }

  /** What networks compute in that say nothing themselves. */
  protected get precision(): Precision {
    return this.engine.report.precision;
  }

  async toLoad(request: EstimateRequest): Promise<Map<string, number>> {
    const onDevice = new Set(this.onDevice);
    const planned = await plannedNetworks(this.networks, request);
    return new Map(
      planned
        .filter(({ name }) => request.phased === true || !onDevice.has(name))
        .map((network) => [
          network.name,
          network.cost(network.precision ?? this.precision, request.weights ?? 'full').weightBytes,
        ]),
    );
  }

  usePlainConvolutions(isPlain: boolean): void {
    this.networks.shelf.plainConvolutions = isPlain;
  }

  isFrom(files: CheckpointFiles): boolean {
    const paths = this.files.paths();
    return (
      files.paths().length === paths.length &&
      paths.every((path) => files.has(path) && files.version(path) === this.files.version(path))
    );
  }

  release(): Promise<void> {
    return this.networks.clear();
  }
}
