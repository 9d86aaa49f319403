/**
 * CLIP's text encoder, as Stable Diffusion 1 (OpenAI's weights), 2 (OpenCLIP's) and XL (both) use it.
 * Reference: transformers/models/clip/modeling_clip.py
 */
import * as v from 'valibot';
import { assert } from '../core/errors.ts';
import { clipLayer } from './clip_layer.ts';
import { count, divides, only, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'CLIPTextModel';
/** The same network plus a projection of the pooled text. */
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
 * Position of the pooled text: the first end token, or, as older configurations number that wrongly, the greatest id.
 * Reference: transformers/models/clip/modeling_clip.py, CLIPTextTransformer
 */
export function endOf(config: Config, ids: ArrayLike<number>): number {
  const all = Array.from(ids);
  const end = config.eos_token_id === 2 ? all.indexOf(Math.max(...all)) : all.indexOf(config.eos_token_id ?? -1);
  return Math.max(0, end);
}

/** Which of its states the network outputs. */
export interface TextOutputs {
  /** `last`: after the final norm. `penultimate`: before the last layer, without the norm. */
  states: 'last' | 'penultimate';
  /** Whether to output the pooled text as well. */
  isPooled: boolean;
  /** Whether to project it; absent = yes. */
  isProjected?: boolean;
}

/** Elements of the pooled text. */
export function pooledWidth(config: Config, { isProjected = true }: TextOutputs): number {
  return isProjected ? config.projection_dim : config.hidden_size;
}

/** Which layer's states those are; the last layer is 1. */
export function usualLayer({ states }: TextOutputs): number {
  return states === 'last' ? 1 : 2;
}

/**
 * Input `input_ids` int32 [batch, sequence], output `last_hidden_state` or `penultimate_hidden_state` [batch, sequence, hidden_size]. With
 * pooled text also the input `end` int32 [1], see {@link endOf}, and the output `text_embeds` [1, {@link pooledWidth}]; then the batch is
 * 1.
 * @param options.skip how many layers earlier than usual to take the states, −1 for the last in place of the penultimate; the pooled text is
 * always the last layer's
 * @param options.injects whether vectors may replace tokens: inputs `stays` [batch, sequence, 1], 0 for such a token and else 1, and
 *   `vectors` [batch, sequence, hidden_size], 0 for all others
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(
  config: Config,
  weights: WeightIndex,
  options: GraphOptions & { skip?: number; injects?: boolean },
  outputs: TextOutputs = { states: 'last', isPooled: false },
): Graph {
  const { batch, sequence = config.max_position_embeddings, skip = 0, injects = false } = options;
  const { hidden_size: width, layer_norm_eps: epsilon } = config;
  const { states, isPooled, isProjected = true } = outputs;
  const whole = config.num_hidden_layers - skip;
  const before = whole - 1;
  const layers = isPooled ? config.num_hidden_layers : states === 'penultimate' ? before : whole;
  assert(layers > 0 && before >= 0, 'clip skip leaves a layer');
  assert(
    !isPooled || states === 'penultimate' || skip === 0,
    'the states before the last layer are taken without its norm',
  );
  assert(sequence <= config.max_position_embeddings, 'every token has a position');
  const g = new LayerWriter(className, weights, options);
  const root = g.has('text_model.embeddings.token_embedding.weight') ? 'text_model.' : '';

  const ids = g.input('input_ids', 'int32', [batch, sequence]);
  const tokens = injected(g, g.embedding(`${root}embeddings.token_embedding`, ids, config.vocab_size, width), injects);
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
    const next =
      index + 1 < (isPooled ? config.num_hidden_layers : Math.min(whole, config.num_hidden_layers))
        ? `${root}encoder.layers.${index + 1}.layer_norm1`
        : `${root}final_layer_norm`;
    ({ normal, residual } = clipLayer(g, path, { normal, residual }, next, config, true));
    penultimate = index + 1 === before ? residual : penultimate;
  }
  const given = states === 'last' ? normal : penultimate;
  const name = `${states}_hidden_state`;
  g.output(name, g.reshape(`${name}/batch`, given, [batch, sequence, width]));
  if (isPooled) {
    assert(batch === 1, 'one text is pooled at a time');
    const end = g.input('end', 'int32', [1]);
    const row = g.node('pooled', 'Gather', [normal, end], [1, width]);
    g.output('text_embeds', isProjected ? projection(g, row, config.projection_dim) : row);
  }
  return g.graph();
}

/** Token embeddings, some replaced by the vectors of a textual inversion. */
function injected(g: LayerWriter, tokens: Value, injects: boolean): Value {
  if (!injects) {
    return tokens;
  }
  const [batch, sequence, width] = tokens.dims;
  const stays = g.input('stays', 'float32', [batch, sequence, 1]);
  const vectors = g.input('vectors', 'float32', [batch, sequence, width]);
  return g.add('vectors/added', g.node('vectors/stays', 'Mul', [tokens, stays], tokens.dims), vectors);
}

/** The original layout stores the matrix transposed and names it `text_projection` without `.weight`. */
function projection(g: LayerWriter, row: Value, out: number): Value {
  if (!g.has('text_projection')) {
    return g.linear('text_projection', row, out, { bias: false });
  }
  const matrix = g.weight('text_projection', [row.dims[1], out]);
  return g.node('text_projection/product', 'Gemm', [row, matrix], [1, out], { attributes: { transB: 0 } });
}
