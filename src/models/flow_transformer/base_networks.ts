/** What the networks of all flow transformers have in common: whose weights lie where, and what none of them does. */
import { StudioError } from '../../core/errors.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { ModelLora } from '../family.ts';
import { GraphCosts } from '../latent_diffusion/estimate.ts';
import { storedVariant } from '../latent_diffusion/graph_networks.ts';

export class BaseNetworks {
  readonly shelf: NetworkShelf;
  protected readonly costs = new GraphCosts();

  /**
   * @param family for people
   * @param components those whose weights are run as `weights` says, and then the autoencoder
   */
  constructor(
    readonly engine: Engine,
    readonly files: CheckpointFiles,
    readonly family: string,
    readonly components: readonly Component[],
    readonly weights: WeightVariant,
  ) {
    this.shelf = new NetworkShelf(engine, files);
  }

  embedsGuidance(): Promise<boolean> {
    return Promise.resolve(false);
  }

  batchesGuidance(): Promise<boolean> {
    return Promise.resolve(false);
  }

  /** @throws StudioError `checkpoint_unsupported` unless there is none */
  useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    if (loras.length === 0) {
      return Promise.resolve([]);
    }
    const names = loras.map(({ name }) => name).join(', ');
    return Promise.reject(
      new StudioError(
        'checkpoint_unsupported',
        `${this.family} cannot be run with LoRAs yet; take ${names} off, or choose a checkpoint of Stable Diffusion.`,
      ),
    );
  }

  async checkLora(lora: ModelLora): Promise<string | null> {
    await this.useLoras([lora]);
    return null;
  }

  provenance(): Promise<{ files: string[]; facts: Record<string, unknown> }> {
    return Promise.resolve({
      files: [...new Set(this.components.flatMap(({ files }) => files))],
      facts: {
        precision: Object.fromEntries(this.components.map(({ name }) => [name, 'f32'])),
        weights: storedVariant(this.files, [...this.components]) ?? this.weights,
      },
    });
  }

  clear(): Promise<void> {
    return this.shelf.clear();
  }
}

/** Tensors that are disposed together. */
export class Held {
  readonly #tensors: DeviceTensor[] = [];

  hold(tensor: DeviceTensor): DeviceTensor {
    this.#tensors.push(tensor);
    return tensor;
  }

  dispose(): void {
    this.#tensors.splice(0).forEach((tensor) => {
      tensor.dispose();
    });
  }
}
