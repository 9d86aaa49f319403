/** Prompts read by T5Gemma: the hidden states of their tokens, which see nothing of the padding after them. */
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import { paddingMask } from '../../graphs/t5_encoder.ts';
import * as t5gemma from '../../graphs/t5gemma_encoder.ts';
import type { GemmaTokenizer, GemmaTokens } from '../../text/gemma_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import { Held } from '../flow_transformer/base_networks.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';

export interface T5GemmaStates extends Omit<GemmaTokens, 'ids'> {
  /** [the tokenizer's limit, width]; rows from `kept` on are of padding and say nothing. */
  states: DeviceTensor;
  kept: number;
}

export class T5GemmaText {
  readonly config: t5gemma.Config;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly files: CheckpointFiles,
    readonly component: Component,
    readonly tokenizer: GemmaTokenizer,
    readonly weights: WeightVariant,
  ) {
    this.config = t5gemma.parseConfig(component.config);
  }

  get width(): number {
    return this.config.encoder.hidden_size;
  }

  async encode(prompt: string): Promise<T5GemmaStates> {
    const { config, component, engine, files, width } = this;
    const { arithmetic } = engine;
    const { ids, tokens, text } = this.tokenizer.encode(prompt);
    const { limit: sequence, pad } = this.tokenizer;
    const { weights } = component;
    const network = await this.shelf.get('text_encoder', { sequence }, ({ provider }) =>
      t5gemma.build(config, weights, { ...this.#shape(provider), weights: this.weights }),
    );
    const all = new Int32Array(sequence).fill(pad);
    all.set(ids);
    const rows = await readRows(files, weights.get(t5gemma.embeddingTable(weights)) as StoredTensor, all);
    const scale = t5gemma.embeddingScale(config);
    const { cos, sin } = t5gemma.angles(config, sequence);
    const half = [sequence, config.encoder.head_dim / 2];
    const held = new Held();
    const states = arithmetic.empty([sequence, width]);
    try {
      const inputs = {
        inputs_embeds: held.hold(
          arithmetic.upload(
            rows.map((value) => value * scale),
            [sequence, width],
          ),
        ),
        cos: held.hold(arithmetic.upload(cos, half)),
        sin: held.hold(arithmetic.upload(sin, half)),
        mask: held.hold(arithmetic.upload(paddingMask(sequence, ids.length), [1, 1, sequence])),
      };
      await engine.run(network, inputs, { last_hidden_state: states });
    } catch (error) {
      states.dispose();
      throw error;
    } finally {
      held.dispose();
    }
    return { states, kept: ids.length, tokens, text };
  }

  /** @param texts to be read */
  planned(costs: GraphCosts, texts: number): PlannedNetwork {
    const { config, component } = this;
    return costs.network(
      { name: 'text_encoder', phase: 'read', runs: texts, runsPerStep: 0, precision: 'f32' },
      this.#shape(this.engine.provider),
      (options) => t5gemma.build(config, component.weights, options),
    );
  }

  #shape(provider: Engine['provider']) {
    return { provider, dtype: 'f32' as const, batch: 1, height: 0, width: 0, sequence: this.tokenizer.limit };
  }
}
