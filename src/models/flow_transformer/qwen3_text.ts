/** Prompts encoded by Qwen3: hidden states of some of its layers, either for all tokens without padding or for a fixed number of tokens. */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { TokenCount, WeightVariant } from '../../core/model.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as qwen3 from '../../graphs/qwen3.ts';
import type { ChatTokenizer } from '../../text/chat_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { EncodedText } from './flow_networks.ts';

export interface Qwen3Reading {
  /** Layers whose hidden states are concatenated; negative ones count from the last, as in transformers. */
  after: readonly number[];
  /** Whether prompts are padded to the tokenizer's limit, and the padding is read, too. */
  padded: boolean;
}

export class Qwen3Text {
  readonly config: qwen3.Config;
  readonly #after: number[];

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly files: CheckpointFiles,
    readonly component: Component,
    readonly tokenizer: Pick<ChatTokenizer, 'limit' | 'pad' | 'encode'>,
    readonly weights: WeightVariant,
    readonly reading: Qwen3Reading,
  ) {
    this.config = qwen3.parseConfig(component.config);
    const { num_hidden_layers: layers } = this.config;
    this.#after = reading.after.map((layer) => (layer < 0 ? layers + 1 + layer : layer));
  }

  /** Elements of a token. */
  get width(): number {
    return this.config.hidden_size * this.#after.length;
  }

  count(prompt: string): TokenCount {
    const { tokens } = this.tokenizer.encode(prompt);
    return { encoder: 'Qwen3', tokens, limit: this.tokenizer.limit, rows: 1 };
  }

  /** @returns `prompt_embeds` [1, tokens, {@link width}] */
  async encode(prompt: string): Promise<EncodedText & { tensors: { prompt_embeds: DeviceTensor } }> {
    const { config, component, tokenizer, engine, files, reading } = this;
    const { arithmetic } = engine;
    const { ids, tokens, text } = tokenizer.encode(prompt);
    const sequence = reading.padded ? tokenizer.limit : ids.length;
    const all = new Int32Array(sequence).fill(tokenizer.pad);
    all.set(ids);
    const network = await this.shelf.get('text_encoder', { sequence }, ({ provider }) =>
      qwen3.build(config, component.weights, this.#options(provider, sequence)),
    );
    const table = component.weights.get(qwen3.embeddingTable(component.weights)) as StoredTensor;
    const { cos, sin } = qwen3.angles(config, sequence);
    const half = config.head_dim / 2;
    const inputs: Record<string, DeviceTensor> = {
      inputs_embeds: arithmetic.upload(await readRows(files, table, all), [sequence, config.hidden_size]),
      cos: arithmetic.upload(cos, [sequence, half]),
      sin: arithmetic.upload(sin, [sequence, half]),
    };
    if (reading.padded) {
      inputs.attention_bias = arithmetic.upload(qwen3.paddedMask(sequence, ids.length), [1, 1, sequence, sequence]);
    }
    const states = arithmetic.empty([1, sequence, this.width]);
    try {
      await engine.run(network, inputs, { hidden_states: states });
    } catch (error) {
      states.dispose();
      throw error;
    } finally {
      Object.values(inputs).forEach((input) => {
        input.dispose();
      });
    }
    return { tensors: { prompt_embeds: states }, tokens, limit: tokenizer.limit, text };
  }

  /** @param texts to be read, each as long as can be */
  planned(costs: GraphCosts, texts: number): PlannedNetwork {
    const { config, component } = this;
    const { provider } = this.engine;
    const sequence = this.tokenizer.limit;
    const { padded } = this.reading;
    const shape = { provider, batch: 1, height: 0, width: 0, sequence, after: this.#after, padded };
    return costs.network(
      { name: 'text_encoder', phase: 'read', runs: texts, runsPerStep: 0, precision: 'f32' },
      component.weights,
      shape,
      (options) => qwen3.build(config, component.weights, options),
    );
  }

  #options(provider: qwen3.Qwen3Options['provider'], sequence: number): qwen3.Qwen3Options {
    const { weights } = this;
    const { padded } = this.reading;
    return { provider, dtype: 'f32', batch: 1, height: 0, width: 0, sequence, weights, after: this.#after, padded };
  }
}
