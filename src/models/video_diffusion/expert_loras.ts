/** LoRAs of a model with two transformers, for much noise and for little: a LoRA is for the one that its name says, or for both. */
import type { StoredTensor } from '../../graphs/graph.ts';
import { noiseOf } from '../../weights/mmdit_parts.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { ModelLora } from '../family.ts';
import { MergedLoras } from '../latent_diffusion/merged_loras.ts';

export type Noise = 'high' | 'low';

/** For how much noise a LoRA is, as its name says, such as `high_noise_model` or `lightning-LOW`; null = for any. */
export function noiseOfLora(name: string): Noise | null {
  const stem = name.replace(/\.safetensors$/i, '');
  const end = /[-_. ](high|low)$/i.exec(stem)?.[1].toLowerCase();
  return noiseOf(stem) ?? (end === 'high' || end === 'low' ? end : null);
}

/** Those of the second transformer; the first one's are merged like those of any other. */
export class LowNoiseLoras {
  readonly #merged: MergedLoras;

  constructor(
    files: CheckpointFiles,
    readonly second: Component,
  ) {
    this.#merged = new MergedLoras(files, { transformer: second.weights });
  }

  /** The second transformer with the changes of the moment. */
  get component(): Component {
    const { second } = this;
    const get = (tensor: string): StoredTensor | undefined => this.#merged.weightsOf('transformer').get(tensor);
    return { ...second, weights: { get, names: () => second.weights.names() } };
  }

  get leftOut(): string[] {
    return this.#merged.leftOut;
  }

  file(name: string): Blob | null {
    return this.#merged.file(name);
  }

  check(lora: ModelLora): Promise<string | null> {
    return this.#merged.check(lora);
  }

  /** @returns whether the second transformer changed */
  async use(loras: readonly ModelLora[]): Promise<boolean> {
    return (await this.#merged.use(loras)).length > 0;
  }

  facts(): Promise<Record<string, unknown>[]> {
    return this.#merged.facts();
  }
}
