/**
 * The language part of Qwen2.5-VL as a text encoder: what its last layer makes of words, and of pictures among them.
 * Reference: transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py
 */
import * as v from 'valibot';
import { count, only, parseNetworkConfig, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { languageLayer } from './language_layers.ts';
import { LayerWriter } from './layers.ts';
import { anglesInput, type RotaryTables } from './rotary.ts';

export const className = 'Qwen2_5_VLForConditionalGeneration';

const sections = v.pipe(v.array(v.number()), v.length(3));
const rope = v.optional(
  v.nullable(
    v.looseObject({
      rope_theta: v.optional(v.number()),
      mrope_section: v.optional(sections),
      rope_type: only(['default', 'mrope'], 'default'),
    }),
  ),
);

const textSchema = v.pipe(
  v.object({
    vocab_size: count(152064),
    hidden_size: count(8192),
    intermediate_size: count(29568),
    num_hidden_layers: count(80),
    num_attention_heads: count(64),
    num_key_value_heads: count(8),
    hidden_act: only(['silu'], 'silu'),
    rms_norm_eps: real(1e-5),
    /** Where transformers kept both before version 5. */
    rope_theta: v.optional(v.number()),
    rope_scaling: rope,
    rope_parameters: rope,
    use_sliding_window: unused(false),
  }),
  v.check(
    ({ hidden_size, num_attention_heads, num_key_value_heads }) =>
      hidden_size % num_attention_heads === 0 && num_attention_heads % num_key_value_heads === 0,
    'its num_attention_heads fit neither its hidden_size nor its num_key_value_heads',
  ),
  v.transform((config) => ({
    ...config,
    head_dim: config.hidden_size / config.num_attention_heads,
    theta: config.rope_parameters?.rope_theta ?? config.rope_theta ?? 1e6,
    /** How many of the angles of a head turn by which axis: time, row, column. */
    sections: config.rope_parameters?.mrope_section ?? config.rope_scaling?.mrope_section ?? [16, 24, 24],
  })),
  v.check(
    ({ head_dim, sections: parts }) => 2 * parts.reduce((sum, part) => sum + part, 0) === head_dim,
    'its mrope_section does not add up to half the width of a head',
  ),
);

/** Published files have the text's values beside `text_config`, or in it alone. */
const nested = v.looseObject({
  text_config: v.optional(v.nullable(v.looseObject({}))),
  /** What stands for a picture in a text. */
  image_token_id: v.optional(v.number(), 151655),
});

export type Config = v.InferOutput<typeof textSchema> & { image_token_id: number };

/** @throws StudioError `checkpoint_unsupported` */
export function parseConfig(json: unknown): Config {
  const { text_config, image_token_id, ...outer } = parseNetworkConfig(className, nested, json);
  return { ...parseNetworkConfig(className, textSchema, { ...outer, ...text_config }), image_token_id };
}

/** The table of embeddings, whose rows are read on the processor. */
export function embeddingTable(weights: WeightIndex): string {
  return `${rootOf(weights)}embed_tokens.weight`;
}

/** On which of three axes a token stands: time, row, column; words stand at the same place on all of them. */
export type Position = readonly [time: number, row: number, column: number];

export function angles({ head_dim, theta, sections: parts }: Config, positions: readonly Position[]): RotaryTables {
  const half = head_dim / 2;
  const cos = new Float32Array(positions.length * half);
  const sin = new Float32Array(positions.length * half);
  const axes = parts.flatMap((part, axis) => Array.from({ length: part }, () => axis));
  const speeds = Array.from({ length: half }, (_, i) => Math.fround(1 / theta ** ((2 * i) / head_dim)));
  positions.forEach((position, token) => {
    speeds.forEach((speed, i) => {
      const angle = Math.fround(position[axes[i]] * speed);
      cos[token * half + i] = Math.cos(angle);
      sin[token * half + i] = Math.sin(angle);
    });
  });
  return { cos, sin };
}

/**
 * Inputs `inputs_embeds` [sequence, hidden_size], `cos` and `sin` [sequence, head_dim/2]; output `hidden_states` [1, sequence, hidden_size],
 * those after the last layer and its norm. A token sees itself and those before it, so padding at the end changes nothing. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { hidden_size: width, num_hidden_layers: layers, rms_norm_eps: epsilon } = config;
  const { sequence = 512 } = options;
  const g = new LayerWriter(className, weights, options);
  const root = rootOf(weights);
  const turns = anglesInput(g, '', sequence, config.head_dim / 2);
  let hidden = g.floats('inputs_embeds', [sequence, width]);
  for (let layer = 0; layer < layers; layer++) {
    g.cut();
    hidden = languageLayer(g, `${root}layers.${layer}`, hidden, config, { turns, headNorms: false, biases: true });
  }
  g.cut();
  const states = g.rmsNorm(`${root}norm`, hidden, epsilon);
  g.output('hidden_states', g.reshape('hidden_states/batch', states, [1, sequence, width]));
  return g.graph();
}

function rootOf(weights: WeightIndex): string {
  const roots = ['model.language_model.', 'model.', ''];
  return roots.find((root) => weights.get(`${root}layers.0.input_layernorm.weight`)) ?? roots[0];
}
