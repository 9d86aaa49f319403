/** What loaded checkpoints that make sounds have in common: everything but what they are asked for. */
import type { CheckpointSummary, Estimate, EstimateRequest } from '../../core/model.ts';
import type { SoundForm } from '../../core/sound_model.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Loading } from '../../engine/network_shelf.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { fingerprint } from '../../weights/fingerprint.ts';
import type { Circumstances, ModelLora } from '../family.ts';
import type { BaseNetworks } from '../flow_transformer/base_networks.ts';
import { estimate, plannedNetworks, type EstimatedNetworks } from '../latent_diffusion/estimate.ts';

export class SoundCheckpoint<Networks extends BaseNetworks & EstimatedNetworks & { readonly form: SoundForm }> {
  /** How the last sound was sampled, for recordings. */
  protected used: Record<string, unknown> = {};

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

  get form(): SoundForm {
    return this.networks.form;
  }

  get onDevice(): readonly string[] {
    return this.networks.shelf.names;
  }

  async provenance(): Promise<Record<string, unknown>> {
    const { files, facts } = await this.networks.provenance();
    const { name, ref, pipelineClass } = this.summary;
    const sha256: Record<string, string> = {};
    for (const file of files) {
      sha256[file] = await fingerprint(this.files, file);
    }
    return {
      checkpoint: { name, ref, pipeline_class: pipelineClass, sha256 },
      scheduler_config: this.scheduler.values,
      ...facts,
      ...this.used,
    };
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

  async toLoad(request: EstimateRequest): Promise<Map<string, number>> {
    const onDevice = new Set(this.networks.shelf.names);
    const planned = (await plannedNetworks(this.networks, request)).filter(({ name }) => !onDevice.has(name));
    const bytes = planned.map((network): [string, number] => [
      network.name,
      network.cost('f32', request.weights ?? 'full').weightBytes,
    ]);
    return new Map(bytes);
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
