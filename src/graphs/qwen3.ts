/**
 * Qwen3 as a text encoder: only the language model's hidden states are used.
 * Reference: transformers/models/qwen3/modeling_qwen3.py
 */
import * as v from 'valibot';
import { count, only, parseNetworkConfig, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { layerStates } from './language_layers.ts';
import { LayerWriter } from './layers.ts';
import { anglesInput, rotaryTables, type RotaryTables } from './rotary.ts';

export const className = 'Qwen3ForCausalLM';
/** The same without the head that writes words. */
export const headlessClassName = 'Qwen3Model';

const rope = v.optional(
  v.nullable(v.looseObject({ rope_theta: v.optional(v.number()), rope_type: only(['default'], 'default') })),
);

export const configSchema = v.pipe(
  v.object({
    vocab_size: count(151936),
    hidden_size: count(4096),
    intermediate_size: count(22016),
    num_hidden_layers: count(32),
    num_attention_heads: count(32),
    num_key_value_heads: count(32),
    head_dim: count(128),
    hidden_act: only(['silu'], 'silu'),
    rms_norm_eps: real(1e-6),
    /** Where transformers stored it before version 5. */
    rope_theta: v.optional(v.number()),
    rope_parameters: rope,
    rope_scaling: unused(),
    attention_bias: unused(false),
    use_sliding_window: unused(false),
  }),
  v.check(
    ({ num_attention_heads, num_key_value_heads }) => num_attention_heads % num_key_value_heads === 0,
    'its num_key_value_heads does not divide its num_attention_heads',
  ),
  v.check(({ head_dim }) => head_dim % 2 === 0, 'its head_dim is odd'),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** The embedding table, whose rows are read on the processor: a prompt needs a few hundred of its 150,000. */
export function embeddingTable(weights: WeightIndex): string {
  return `${rootOf(weights)}embed_tokens.weight`;
}

/** For positions 0 to `sequence` − 1. */
export function angles({ head_dim, rope_theta, rope_parameters }: Config, sequence: number): RotaryTables {
  const theta = rope_parameters?.rope_theta ?? rope_theta ?? 10_000;
  return rotaryTables(
    Array.from({ length: sequence }, (_, position) => [position]),
    [head_dim],
    theta,
  );
}

/** The attention mask, [1, 1, sequence, sequence]: each token sees itself and earlier ones, among the first `kept`, which are not padding. */
export function paddedMask(sequence: number, kept: number): Float32Array<ArrayBuffer> {
  const mask = new Float32Array(sequence * sequence);
  for (let row = 0; row < sequence; row++) {
    // Fully masked rows would divide by zero; transformers' masks avoid them too.
    mask.fill(HIDDEN, row * sequence + Math.min(row + 1, kept), (row + 1) * sequence);
  }
  return mask;
}

/** Low enough that a score becomes 0, in f16 too. */
const HIDDEN = -60_000;

export interface Qwen3Options extends GraphOptions {
  /** Numbers of layers after which the hidden states are wanted, from 1 up; those after the last one come with the model's own norm. */
  after?: readonly number[];
  /** Whether there may be padding, given by an input `attention_bias` [1, 1, sequence, sequence]; otherwise a token sees all before it. */
  padded?: boolean;
  /** Prefix of its tensors where it is a part of another model. */
  root?: string;
}

/**
 * Inputs `inputs_embeds` [sequence, hidden_size], `cos` and `sin` [sequence, head_dim/2]; output `hidden_states` [1, sequence, hidden_size
 * · after.length], each token's layers side by side. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Qwen3Options): Graph {
  const { sequence = 512, after = [config.num_hidden_layers - 1], padded = false, root = rootOf(weights) } = options;
  const g = new LayerWriter(className, weights, options);
  const turns = anglesInput(g, '', sequence, config.head_dim / 2);
  const mask = padded ? g.floats('attention_bias', [1, 1, sequence, sequence]) : undefined;
  const hidden = g.floats('inputs_embeds', [sequence, config.hidden_size]);
  const layers = { after, normed: true, turns, headNorms: true, biases: false, mask };
  g.output('hidden_states', layerStates(g, root, hidden, config, layers));
  return g.graph();
}

function rootOf(weights: WeightIndex): string {
  return weights.get('model.layers.0.input_layernorm.weight') ? 'model.' : '';
}
