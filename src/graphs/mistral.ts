/**
 * The language part of Mistral 3 as a text encoder: the hidden states of some of its layers.
 * Reference: transformers/models/mistral/modeling_mistral.py, mistral3/modeling_mistral3.py
 */
import * as v from 'valibot';
import { count, only, parseNetworkConfig, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { layerStates } from './language_layers.ts';
import { LayerWriter } from './layers.ts';
import { anglesInput, rotaryTables, type RotaryTables } from './rotary.ts';

export const className = 'Mistral3ForConditionalGeneration';

const rope = v.optional(
  v.nullable(v.looseObject({ rope_theta: v.optional(v.number()), rope_type: only(['default'], 'default') })),
);

const textSchema = v.pipe(
  v.object({
    vocab_size: count(32000),
    hidden_size: count(4096),
    intermediate_size: count(14336),
    num_hidden_layers: count(32),
    num_attention_heads: count(32),
    num_key_value_heads: count(8),
    head_dim: v.optional(v.nullable(v.pipe(v.number(), v.integer(), v.minValue(1)))),
    hidden_act: only(['silu'], 'silu'),
    rms_norm_eps: real(1e-6),
    /** Where transformers stored it before version 5. */
    rope_theta: v.optional(v.number()),
    rope_parameters: rope,
    rope_scaling: unused(),
    sliding_window: unused(),
  }),
  v.transform((config) => ({
    ...config,
    head_dim: config.head_dim ?? config.hidden_size / config.num_attention_heads,
    theta: config.rope_parameters?.rope_theta ?? config.rope_theta ?? 10_000,
  })),
  v.check(
    ({ num_attention_heads, num_key_value_heads }) => num_attention_heads % num_key_value_heads === 0,
    'its num_key_value_heads does not divide its num_attention_heads',
  ),
  v.check(({ head_dim }) => head_dim % 2 === 0, 'its head_dim is odd'),
);

/** Published files have the values of the text's part in `text_config`. */
const nested = v.looseObject({ text_config: v.optional(v.looseObject({}), {}) });

export type Config = v.InferOutput<typeof textSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export function parseConfig(json: unknown): Config {
  const { text_config, ...outer } = parseNetworkConfig(className, nested, json);
  return parseNetworkConfig(className, textSchema, { ...outer, ...text_config });
}

/** The table of embeddings, whose rows are read on the processor. */
export function embeddingTable(weights: WeightIndex): string {
  return `${rootOf(weights)}embed_tokens.weight`;
}

/** For positions 0 to `sequence` − 1. */
export function angles({ head_dim, theta }: Config, sequence: number): RotaryTables {
  return rotaryTables(
    Array.from({ length: sequence }, (_, position) => [position]),
    [head_dim],
    theta,
  );
}

/**
 * What tokens see where the first ones are padding: `attention_bias` [1, 1, sequence, sequence], and `sight` [sequence, 1]. Padding sees
 * nothing at all, for which torch's attention gives 0.
 * @param kept how many of the last ones are no padding
 */
export function sightOf(sequence: number, kept: number): Record<'attention_bias' | 'sight', Float32Array<ArrayBuffer>> {
  const padding = sequence - kept;
  const attention_bias = new Float32Array(sequence * sequence);
  for (let row = 0; row < sequence; row++) {
    const start = row * sequence;
    attention_bias.fill(HIDDEN, start + row + 1, start + sequence);
    // A row that hides everything would divide by zero.
    attention_bias.fill(HIDDEN, start, start + (row < padding ? 0 : padding));
  }
  return { attention_bias, sight: new Float32Array(sequence).fill(1, padding) };
}

/** Low enough that a score becomes 0, in f16 too. */
const HIDDEN = -60_000;

export interface MistralOptions extends GraphOptions {
  /** Numbers of layers after which the hidden states are wanted, from 1 up. */
  after?: readonly number[];
}

/**
 * Inputs `inputs_embeds` [sequence, hidden_size], `cos` and `sin` [sequence, head_dim/2], and those of {@link sightOf}; output
 * `hidden_states` [1, sequence, hidden_size · after.length], each token's layers side by side. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: MistralOptions): Graph {
  const { sequence = 512, after = [config.num_hidden_layers] } = options;
  const g = new LayerWriter(className, weights, options);
  const root = rootOf(weights);
  const turns = anglesInput(g, '', sequence, config.head_dim / 2);
  const mask = g.floats('attention_bias', [1, 1, sequence, sequence]);
  const sight = g.floats('sight', [sequence, 1]);
  const hidden = g.floats('inputs_embeds', [sequence, config.hidden_size]);
  // Files for FLUX.2 alone end with the last layer that it reads, and have no norm after it.
  const normed = weights.get(`${root}norm.weight`) !== undefined;
  const pairs = weights.get(`${root}layers.0.self_attn.q_proj.weight`)?.pairs;
  const layers = { after, normed, turns, pairs, headNorms: false, biases: false, mask, sight };
  g.output('hidden_states', layerStates(g, root, hidden, config, layers));
  return g.graph();
}

function rootOf(weights: WeightIndex): string {
  const roots = ['model.language_model.', 'language_model.model.', 'model.', ''];
  return roots.find((root) => weights.get(`${root}layers.0.input_layernorm.weight`)) ?? roots[0];
}
