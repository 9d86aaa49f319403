/**
 * CLIP's text encoder, as Stable Diffusion 1 (OpenAI's weights), 2 (OpenCLIP's) and XL (both) use it.
 * Reference: transformers/models/clip/modeling_clip.py
 */
import * as v from 'valibot';
import { assert } from '../core/errors.ts';
import { count, divides, only, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'CLIPTextModel';
/** The same network, and a projection of the text as a whole. */
export const projectedClassName = 'CLIPTextModelWithProjection';

export const configSchema = v.pipe(
  v.object({
    vocab_size: count(49408),
    hidden_size: count(512),
    intermediate_size: count(2048),
    num_hidden_layers: count(12),
    num_attention_heads: count(8),
    max_position_embeddings: count(77),
    hidden_act: only(['quick_gelu', 'gelu'], 'quick_gelu'),
    layer_norm_eps: real(1e-5),
    projection_dim: count(512),
    eos_token_id: v.optional(v.nullable(v.number()), 49407),
  }),
  v.check(
    ({ hidden_size, num_attention_heads }) => divides(num_attention_heads, [hidden_size]),
    'its num_attention_heads does not divide its hidden_size',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/**
 * Where the text as a whole is read off: at its first end mark, or, as older configurations number that wrongly, at the greatest id.
 * Reference: transformers/models/clip/modeling_clip.py, CLIPTextTransformer
 */
export function endOf(config: Config, ids: ArrayLike<number>): number {
  const all = Array.from(ids);
  const end = config.eos_token_id === 2 ? all.indexOf(Math.max(...all)) : all.indexOf(config.eos_token_id ?? -1);
  return Math.max(0, end);
}

/** Which of its states the network gives. */
export interface TextOutputs {
  /** `last`: after the final norm. `penultimate`: before the last layer, without the norm. */
  states: 'last' | 'penultimate';
  /** Also what is read off at the text's end, projected. */
  isPooled: boolean;
}

/**
 * Input `input_ids` int32 [batch, sequence], output `last_hidden_state` or `penultimate_hidden_state` [batch, sequence, hidden_size]. With pooled text also the input `end`
 * int32 [1], see {@link endOf}, and the output `text_embeds` [1, projection_dim]; then the batch is 1.
 * @param options.skip how many of the last layers are left out ("clip skip" minus one)
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(
  config: Config,
  weights: WeightIndex,
  options: GraphOptions & { skip?: number },
  { states, isPooled }: TextOutputs = { states: 'last', isPooled: false },
): Graph {
  const { batch, sequence = config.max_position_embeddings, skip = 0 } = options;
  const { hidden_size: width, layer_norm_eps: epsilon } = config;
  const whole = config.num_hidden_layers - skip;
  const before = whole - 1;
  const layers = states === 'penultimate' && !isPooled ? before : whole;
  assert(layers > 0, 'clip skip leaves a layer');
  assert(sequence <= config.max_position_embeddings, 'every token has a position');
  const g = new LayerWriter(className, weights, options);
  const root = g.has('text_model.embeddings.token_embedding.weight') ? 'text_model.' : '';

  const ids = g.input('input_ids', 'int32', [batch, sequence]);
  const tokens = g.embedding(`${root}embeddings.token_embedding`, ids, config.vocab_size, width);
  const positions = g.firstRows(
    `${root}embeddings.position_embedding.weight`,
    [config.max_position_embeddings, width],
    sequence,
  );
  const embeddings = g.add(`${root}embeddings`, tokens, positions);
  let residual = g.reshape(`${root}embeddings/tokens`, embeddings, [batch * sequence, width]);
  let penultimate = residual;
  let normal = g.layerNorm(`${root}encoder.layers.0.layer_norm1`, residual, epsilon);
  for (let index = 0; index < layers; index++) {
    const path = `${root}encoder.layers.${index}`;
    const next = index + 1 < whole ? `${root}encoder.layers.${index + 1}.layer_norm1` : `${root}final_layer_norm`;
    const mixed = selfAttention(g, `${path}.self_attn`, normal, config.num_attention_heads);
    ({ normal, residual } = g.linearAddNorm(
      `${path}.self_attn.out_proj`,
      mixed,
      residual,
      `${path}.layer_norm2`,
      epsilon,
    ));
    const inner = g.linear(`${path}.mlp.fc1`, normal, config.intermediate_size);
    const active =
      config.hidden_act === 'quick_gelu'
        ? g.quickGelu(`${path}.mlp.activation_fn`, inner)
        : g.unary(`${path}.mlp.activation_fn`, 'Gelu', inner);
    ({ normal, residual } = g.linearAddNorm(`${path}.mlp.fc2`, active, residual, next, epsilon));
    penultimate = index + 1 === before ? residual : penultimate;
  }
  const given = states === 'last' ? normal : penultimate;
  const name = `${states}_hidden_state`;
  g.output(name, g.reshape(`${name}/batch`, given, [batch, sequence, width]));
  if (isPooled) {
    assert(batch === 1, 'one text is pooled at a time');
    const end = g.input('end', 'int32', [1]);
    const row = g.node('pooled', 'Gather', [normal, end], [1, width]);
    g.output('text_embeds', projection(g, row, config.projection_dim));
  }
  return g.graph();
}

/** The original layout keeps the matrix the other way round, and calls it `text_projection` without `.weight`. */
function projection(g: LayerWriter, row: Value, out: number): Value {
  if (!g.has('text_projection')) {
    return g.linear('text_projection', row, out, { bias: false });
  }
  const matrix = g.weight('text_projection', [row.dims[1], out]);
  return g.node('text_projection/product', 'Gemm', [row, matrix], [1, out], { attributes: { transB: 0 } });
}

function selfAttention(g: LayerWriter, path: string, x: Value, heads: number): Value {
  const width = x.dims[1];
  const [q, k, value] = ['q_proj', 'k_proj', 'v_proj'].map((name) => g.linear(`${path}.${name}`, x, width)) as [
    Value,
    Value,
    Value,
  ];
  return g.attention(path, q, k, value, heads, { causal: true });
}
