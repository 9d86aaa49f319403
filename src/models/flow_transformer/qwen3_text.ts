/** Qwen3 as a reader of prompts, either of all tokens without padding or of a fixed number of tokens. */
import * as qwen3 from '../../graphs/qwen3.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { LayerReader } from './layer_text.ts';

export interface Qwen3Reading {
  /** Layers whose hidden states are concatenated; negative ones count from the last, as in transformers. */
  after: readonly number[];
  /** Whether prompts are padded to the tokenizer's limit, and the padding is read, too. */
  padded: boolean;
}

/** @throws StudioError `checkpoint_unsupported` */
export function qwen3Reader(component: Component, { after: layers, padded }: Qwen3Reading): LayerReader {
  const { weights } = component;
  const config = qwen3.parseConfig(component.config);
  const after = layers.map((layer) => (layer < 0 ? config.num_hidden_layers + 1 + layer : layer));
  return {
    name: 'Qwen3',
    component,
    table: qwen3.embeddingTable(weights),
    widths: {
      hidden: config.hidden_size,
      angles: config.head_dim / 2,
      read: config.hidden_size * after.length,
    },
    padding: padded ? 'after' : 'none',
    angles: (sequence) => qwen3.angles(config, sequence),
    inputs: (sequence, kept) => ({
      ...(padded && {
        attention_bias: { data: qwen3.paddedMask(sequence, kept), dims: [1, 1, sequence, sequence] },
      }),
    }),
    build: (options) => qwen3.build(config, weights, { ...options, after, padded }),
  };
}
