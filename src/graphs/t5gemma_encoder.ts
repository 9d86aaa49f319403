/**
 * T5Gemma's encoder, which reads prompts for Stable Audio 3: Gemma 2's layers, in which every token sees all others.
 * Reference: transformers/models/t5gemma/modeling_t5gemma.py
 */
import * as v from 'valibot';
import { count, only, parseNetworkConfig, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import { oneMore } from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, type RotaryTables } from './rotary.ts';

export const className = 'T5GemmaEncoderModel';

const rope = v.optional(
  v.nullable(v.looseObject({ rope_theta: v.optional(v.number()), rope_type: only(['default'], 'default') })),
);

const encoderSchema = v.pipe(
  v.object({
    vocab_size: count(256000),
    hidden_size: count(2304),
    intermediate_size: count(9216),
    num_hidden_layers: count(26),
    num_attention_heads: count(8),
    num_key_value_heads: count(4),
    head_dim: count(256),
    hidden_activation: only(['gelu_pytorch_tanh'], 'gelu_pytorch_tanh'),
    rms_norm_eps: real(1e-6),
    query_pre_attn_scalar: v.optional(v.pipe(v.number(), v.gtValue(0)), 256),
    attn_logit_softcapping: v.optional(v.nullable(v.pipe(v.number(), v.gtValue(0))), 50),
    /** Some layers see this far; the prompts that are read are no longer. */
    sliding_window: v.optional(v.nullable(v.pipe(v.number(), v.minValue(256))), 4096),
    /** Where transformers stored it before version 5. */
    rope_theta: v.optional(v.number()),
    rope_parameters: rope,
    attention_bias: unused(false),
  }),
  v.check(
    ({ num_attention_heads, num_key_value_heads }) => num_attention_heads % num_key_value_heads === 0,
    'its num_key_value_heads does not divide its num_attention_heads',
  ),
  v.check(({ head_dim }) => head_dim % 2 === 0, 'its head_dim is odd'),
);

export const configSchema = v.object({ encoder: v.optional(encoderSchema, {}), is_encoder_decoder: unused(false) });

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** The embedding table, whose rows are read on the processor: a prompt needs a few hundred of its 256,000. */
export function embeddingTable(weights: WeightIndex): string {
  return `${rootOf(weights)}embed_tokens.weight`;
}

/** What the rows of the table are multiplied by. */
export function embeddingScale({ encoder }: Config): number {
  return Math.fround(Math.sqrt(encoder.hidden_size));
}

/** For positions 0 to `sequence` − 1. Padding before the words would move all of them, which changes nothing: only distances count. */
export function angles({ encoder }: Config, sequence: number): RotaryTables {
  const { head_dim, rope_theta, rope_parameters } = encoder;
  const ids = Array.from({ length: sequence }, (_, position) => [position]);
  return rotaryTables(ids, [head_dim], rope_parameters?.rope_theta ?? rope_theta ?? 10_000);
}

/**
 * Inputs `inputs_embeds` [sequence, hidden_size] (rows of the table times {@link embeddingScale}), `cos` and `sin` [sequence, head_dim/2],
 * `mask` [1, 1, sequence], low for padding; output `last_hidden_state` [sequence, hidden_size]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build({ encoder: config }: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { hidden_size: width, intermediate_size: inner } = config;
  const { sequence = 256 } = options;
  const g = new LayerWriter(className, weights, options);
  const root = rootOf(weights);
  const norm = (path: string, x: Value) => {
    const factors = oneMore(g, `${path}/factors`, g.weight(`${path}.weight`, [width]));
    return g.scaledRmsNorm(path, x, factors, config.rms_norm_eps);
  };
  const turns = anglesInput(g, '', sequence, config.head_dim / 2);
  const mask = g.floats('mask', [1, 1, sequence]);
  let hidden = g.floats('inputs_embeds', [sequence, width]);
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    g.cut();
    const path = `${root}layers.${layer}`;
    const seen = selfAttention(
      g,
      `${path}.self_attn`,
      norm(`${path}.pre_self_attn_layernorm`, hidden),
      turns,
      mask,
      config,
    );
    hidden = g.add(`${path}/seen`, hidden, norm(`${path}.post_self_attn_layernorm`, seen));
    const before = norm(`${path}.pre_feedforward_layernorm`, hidden);
    const linear = (name: string, x: Value, out: number) => g.linear(`${path}.mlp.${name}`, x, out, { bias: false });
    const active = g.tanhGelu(`${path}.mlp.act_fn`, linear('gate_proj', before, inner));
    const thought = linear(
      'down_proj',
      g.binary(`${path}.mlp`, 'Mul', active, linear('up_proj', before, inner)),
      width,
    );
    hidden = g.add(`${path}/thought`, hidden, norm(`${path}.post_feedforward_layernorm`, thought));
  }
  g.cut();
  g.output('last_hidden_state', norm(`${root}norm`, hidden));
  return g.graph();
}

/** The runtime's own attention caps no scores. */
function selfAttention(
  g: LayerWriter,
  path: string,
  x: Value,
  turns: Angles,
  mask: Value,
  config: Config['encoder'],
): Value {
  const { num_attention_heads: heads, num_key_value_heads: shared, head_dim: head } = config;
  const { query_pre_attn_scalar: scalar, attn_logit_softcapping: cap } = config;
  const [sequence, width] = x.dims;
  const project = (name: string, count: number) => g.linear(`${path}.${name}_proj`, x, count * head, { bias: false });
  const split = (name: string, value: Value, perm: readonly number[]) =>
    g.transpose(`${path}/${name}`, g.reshape(`${path}/${name}/heads`, value, [sequence, heads, head]), perm);
  const turned = (name: string, count: number) =>
    g.rotary(`${path}/${name}/turned`, project(name, count), turns, 'halves');
  const all = (name: string, value: Value) => g.repeatHeads(`${path}/${name}/repeated`, value, shared, heads);

  const scale = 1 / Math.sqrt(scalar) / (cap ?? 1);
  const q = split('q', g.scaleShift(`${path}/q/scaled`, turned('q', heads), scale, 0), [1, 0, 2]);
  const k = split('k', all('k', turned('k', shared)), [1, 2, 0]);
  const value = split('v', all('v', project('v', shared)), [1, 0, 2]);
  const scores = g.node(`${path}/scores`, 'MatMul', [q, k], [heads, sequence, sequence]);
  const capped = cap === null ? scores : g.scaleShift(`${path}/cap`, g.unary(`${path}/tanh`, 'Tanh', scores), cap, 0);
  const shares = g.node(`${path}/shares`, 'Softmax', [g.add(`${path}/masked`, capped, mask)], scores.dims, {
    attributes: { axis: -1 },
  });
  const mixed = g.transpose(`${path}/mixed`, g.node(`${path}/seen`, 'MatMul', [shares, value], q.dims), [1, 0, 2]);
  return g.linear(`${path}.o_proj`, g.reshape(`${path}/tokens`, mixed, [sequence, heads * head]), width, {
    bias: false,
  });
}

function rootOf(weights: WeightIndex): string {
  return weights.get('model.encoder.norm.weight') ? 'model.encoder.' : 'encoder.';
}
