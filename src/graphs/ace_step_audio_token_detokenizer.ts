/**
 * ACE-Step's codes as latents again, five for each: what a cover is told of the sound that it covers.
 * Reference: diffusers/pipelines/ace_step/modeling_ace_step.py
 */
import * as v from 'valibot';
import {
  attentionEntries,
  encoderLayers,
  hasEvenHead,
  sharesHeads,
  UNSHARED,
  ODD_HEAD,
  shortSight,
} from './ace_step_layers.ts';
import { count, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';

export const className = 'AceStepAudioTokenDetokenizer';

export const configSchema = v.pipe(
  v.object({
    ...attentionEntries,
    audio_acoustic_hidden_dim: count(64),
    pool_window_size: count(5),
    num_attention_pooler_hidden_layers: count(2),
  }),
  v.check((config) => sharesHeads(config), UNSHARED),
  v.check((config) => hasEvenHead(config), ODD_HEAD),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/**
 * `batch` counts codes. Inputs `hidden_states` [batch, hidden_size], `cos` and `sin` [pool_window_size, head_dim/2]; output `latents`
 * [batch · pool_window_size, audio_acoustic_hidden_dim]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { hidden_size: dim, pool_window_size: pooled } = config;
  const { batch } = options;
  const g = new LayerWriter(className, weights, options);
  const codes = g.linear('embed_tokens', g.floats('hidden_states', [batch, dim]), dim);
  const each = g.expand('each', g.reshape('codes', codes, [batch, 1, dim]), [batch, pooled, dim]);
  const told = g.reshape('tokens', g.add('placed', each, g.weight('special_tokens', [1, pooled, dim])), [
    batch * pooled,
    dim,
  ]);
  const layers = { count: config.num_attention_pooler_hidden_layers, types: config.layer_types };
  const all = encoderLayers(g, '', told, config, layers, shortSight(g, pooled, config));
  g.output('latents', g.linear('proj_out', all, config.audio_acoustic_hidden_dim));
  return g.graph();
}
