/**
 * A sound's latents as ACE-Step's codes: five latents become one, which is rounded to a few levels. What it gives is what the rounded numbers stand
 * for.
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
import { count, counts, only, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'AceStepAudioTokenizer';

export const configSchema = v.pipe(
  v.object({
    ...attentionEntries,
    audio_acoustic_hidden_dim: count(64),
    pool_window_size: count(5),
    fsq_dim: count(2048),
    fsq_input_levels: v.nullish(counts([]), null),
    fsq_input_num_quantizers: only([1], 1),
    num_attention_pooler_hidden_layers: count(2),
  }),
  v.check((config) => sharesHeads(config), UNSHARED),
  v.check((config) => hasEvenHead(config), ODD_HEAD),
  v.check(({ fsq_dim, hidden_size }) => fsq_dim === hidden_size, 'its fsq_dim is another than its hidden_size'),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

const USUAL_LEVELS = [8, 8, 8, 5, 5, 5];

/**
 * `batch` counts codes. Inputs `latents` [batch · pool_window_size, audio_acoustic_hidden_dim], `cos` and `sin` [pool_window_size + 1,
 * head_dim/2]; output `hidden_states` [batch, fsq_dim]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { hidden_size: dim, audio_acoustic_hidden_dim: channels, pool_window_size: pooled } = config;
  const { batch } = options;
  const g = new LayerWriter(className, weights, options);
  const path = 'attention_pooler';
  const latents = g.linear('audio_acoustic_proj', g.floats('latents', [batch * pooled, channels]), dim);
  const embedded = g.reshape(`${path}/groups`, g.linear(`${path}.embed_tokens`, latents, dim), [batch, pooled, dim]);
  const own = g.expand(`${path}/own`, g.weight(`${path}.special_token`, [1, 1, dim]), [batch, 1, dim]);
  const tokens = g.reshape(`${path}/tokens`, g.concat(`${path}/joined`, [own, embedded], 1), [
    batch * (pooled + 1),
    dim,
  ]);
  const layers = { count: config.num_attention_pooler_hidden_layers, types: config.layer_types };
  const all = encoderLayers(g, `${path}.`, tokens, config, layers, shortSight(g, pooled + 1, config));
  const groups = g.reshape(`${path}/seen`, all, [batch, pooled + 1, dim]);
  const [first] = g.split(`${path}/first`, groups, [1, pooled], 1);
  const code = g.linear('quantizer.project_in', g.reshape('code', first, [batch, dim]), levelsOf(config).length);
  g.output('hidden_states', g.linear('quantizer.project_out', rounded(g, code, levelsOf(config)), dim));
  return g.graph();
}

function levelsOf({ fsq_input_levels: levels }: Config): number[] {
  return levels ?? USUAL_LEVELS;
}

/** Each column at the nearest of its levels, which lie evenly from −1 to 1. */
function rounded(g: LayerWriter, x: Value, levels: readonly number[]): Value {
  const row = (values: number[]) => g.constant(values, 'f32');
  const soft = levels.map((count) => 1 + 1 / (count - 1));
  const bent = g.unary('fsq/tanh', 'Tanh', g.binary('fsq/soft', 'Div', x, row(soft)));
  const code = g.binary('fsq/bent', 'Mul', bent, row(soft));
  // From 0 to 2: what lies beyond the last level counts as it.
  const above = g.unary('fsq/above', 'Relu', g.scaleShift('fsq/raised', code, 1, 1));
  const under = g.unary('fsq/under', 'Relu', g.scaleShift('fsq/left', above, -1, 2));
  const within = g.scaleShift('fsq/within', under, -1, 2);
  const counted = g.binary('fsq/counted', 'Mul', within, row(levels.map((count) => (count - 1) / 2)));
  const level = g.unary('fsq/level', 'Floor', g.add('fsq/half', counted, row([0.5])));
  const spread = g.binary('fsq/spread', 'Mul', level, row(levels.map((count) => 2 / (count - 1))));
  return g.add('fsq', spread, row([-1]));
}
