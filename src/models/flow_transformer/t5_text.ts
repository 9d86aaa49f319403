/** Prompts read by T5: the hidden states of a fixed number of tokens, of the padding, too, which most of these pipelines do not hide from the others. */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { TokenCount, WeightVariant } from '../../core/model.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as t5 from '../../graphs/t5_encoder.ts';
import type { T5Tokenizer } from '../../text/t5_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import { Held } from './base_networks.ts';

export interface T5States {
  /** [1, the tokenizer's limit, width] */
  states: DeviceTensor;
  tokens: number;
  text: string;
}

export class T5Text {
  readonly config: t5.Config;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly files: CheckpointFiles,
    readonly component: Component,
    readonly tokenizer: T5Tokenizer,
    readonly weights: WeightVariant,
    /** Whether words see nothing of the padding after them. */
    readonly masked = false,
  ) {
    this.config = t5.parseConfig(component.config);
  }

  count(prompt: string): TokenCount {
    const { tokens } = this.tokenizer.encode(prompt);
    return { encoder: 'T5', tokens, limit: this.tokenizer.limit, rows: 1 };
  }

  async encode(prompt: string): Promise<T5States> {
    const { config, component, tokenizer, engine, files, weights, masked } = this;
    const { arithmetic } = engine;
    const { ids, tokens, text } = tokenizer.encode(prompt);
    const sequence = tokenizer.limit;
    const all = new Int32Array(sequence).fill(tokenizer.pad);
    all.set(ids);
    const network = await this.shelf.get(component.name, { sequence }, ({ provider }) =>
      t5.build(config, component.weights, {
        provider,
        dtype: 'f32',
        batch: 1,
        height: 0,
        width: 0,
        sequence,
        weights,
        masked,
      }),
    );
    const table = component.weights.get(t5.embeddingTable(component.weights)) as StoredTensor;
    const held = new Held();
    const inputs = {
      inputs_embeds: held.hold(arithmetic.upload(await readRows(files, table, all), [sequence, config.d_model])),
      buckets: held.hold(arithmetic.upload(t5.distanceBuckets(config, sequence), [sequence, sequence])),
      ...(masked && { mask: held.hold(arithmetic.upload(t5.paddingMask(sequence, ids.length), [1, 1, 1, sequence])) }),
    };
    const states = arithmetic.empty([1, sequence, config.d_model]);
    try {
      await engine.run(network, inputs, { last_hidden_state: states });
    } catch (error) {
      states.dispose();
      throw error;
    } finally {
      held.dispose();
    }
    return { states, tokens, text };
  }

  /** @param texts to be read */
  planned(costs: GraphCosts, texts: number): PlannedNetwork {
    const { config, component, masked } = this;
    const { provider } = this.engine;
    const shape = { provider, batch: 1, height: 0, width: 0, sequence: this.tokenizer.limit, masked };
    return costs.network(
      { name: component.name, phase: 'read', runs: texts, runsPerStep: 0, precision: 'f32' },
      shape,
      (options) => t5.build(config, component.weights, options),
    );
  }
}
