/** What the networks of all flow transformers share: where their weights are, and what none of them does. */
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { NetworkShelf } from '../../engine/network_shelf.ts';
import * as clipText from '../../graphs/clip_text.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { LoraNetwork } from '../../weights/lora_names.ts';
import type { ModelLora } from '../family.ts';
import { GraphCosts } from '../latent_diffusion/estimate.ts';
import { storedVariant } from '../latent_diffusion/components.ts';
import { MergedLoras } from '../latent_diffusion/merged_loras.ts';

/** What holds the transformer's weights on the device. */
const TRANSFORMERS = ['transformer', 'transformer_text'];

/** The other transformer of a model that has two. */
const SECOND_EXPERT = 'transformer_2';

/** LoRAs change the transformer and CLIP; language models that read prompts stay as they are. */
function takesLoras({ name, className }: Component): boolean {
  return name === 'transformer' || CLIPS.includes(className);
}

const CLIPS: readonly string[] = [clipText.className, clipText.projectedClassName];

export class BaseNetworks {
  readonly shelf: NetworkShelf;
  protected readonly loras: MergedLoras;
  protected readonly costs = new GraphCosts();

  /**
   * @param family for people
   * @param components those whose weights run as `weights` says, followed by the autoencoder
   */
  constructor(
    readonly engine: Engine,
    readonly files: CheckpointFiles,
    readonly family: string,
    readonly components: readonly Component[],
    readonly weights: WeightVariant,
  ) {
    this.loras = new MergedLoras(
      files,
      Object.fromEntries(components.filter(takesLoras).map(({ name, weights: own }) => [name, own])),
    );
    const blob = (path: string) => {
      const lora = this.loraFile(path);
      return lora ? Promise.resolve(lora) : files.blob(path);
    };
    const clips = components.filter(takesLoras).map(({ name }) => name);
    this.shelf = new NetworkShelf(engine, { blob }, new Set([...TRANSFORMERS, SECOND_EXPERT, ...clips]));
  }

  /** The component with the changes that the LoRAs of the moment make to its weights. */
  protected withLoras(component: Component): Component {
    const { name, weights } = component;
    const get = (tensor: string) => this.loras.weightsOf(name as LoraNetwork).get(tensor);
    return takesLoras(component) ? { ...component, weights: { get, names: () => weights.names() } } : component;
  }

  /** The file that graphs refer to by this name; null if it is no LoRA's. */
  protected loraFile(name: string): Blob | null {
    return this.loras.file(name);
  }

  /** What is recorded of them. */
  protected loraFacts(): Promise<Record<string, unknown>[]> {
    return this.loras.facts();
  }

  embedsGuidance(): Promise<boolean> {
    return Promise.resolve(false);
  }

  batchesGuidance(): Promise<boolean> {
    return Promise.resolve(false);
  }

  async useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    for (const network of await this.loras.use(loras)) {
      for (const name of network === 'transformer' ? TRANSFORMERS : [network]) {
        await this.shelf.renew(name);
      }
    }
    return this.loras.leftOut;
  }

  checkLora(lora: ModelLora): Promise<string | null> {
    return this.loras.check(lora);
  }

  async provenance(): Promise<{ files: string[]; facts: Record<string, unknown> }> {
    const loras = await this.loraFacts();
    return {
      files: [...new Set(this.components.flatMap(({ files }) => files))],
      facts: {
        precision: Object.fromEntries(this.components.map(({ name }) => [name, 'f32'])),
        weights: storedVariant(this.files, [...this.components]) ?? this.weights,
        ...(loras.length > 0 && { loras }),
      },
    };
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
