/**
 * The encoders of T5 1.1 and UMT5; the latter has a table of relative positions in every layer instead of one for all.
 * Reference: transformers/models/t5/modeling_t5.py and models/umt5/modeling_umt5.py
 */
import * as v from 'valibot';
import { count, only, parseNetworkConfig, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'T5EncoderModel';
export const perLayerClassName = 'UMT5EncoderModel';

export const configSchema = v.object({
  vocab_size: count(32128),
  d_model: count(512),
  d_kv: count(64),
  d_ff: count(2048),
  num_layers: count(6),
  num_heads: count(8),
  relative_attention_num_buckets: count(32),
  relative_attention_max_distance: count(128),
  layer_norm_epsilon: real(1e-6),
  feed_forward_proj: only(['gated-gelu', 'relu'], 'relu'),
  is_decoder: unused(false),
});

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** The embedding table, whose rows are read on the processor: a prompt needs a few hundred of its 32,128 to 256,384. */
export function embeddingTable(weights: WeightIndex): string {
  return ['shared.weight', 'encoder.embed_tokens.weight'].find((name) => weights.get(name)) ?? 'shared.weight';
}

/**
 * For every pair of tokens, [sequence, sequence], the row of the relative position table: exact nearby, in wider buckets further away, and
 * separate for before and after.
 */
export function distanceBuckets(config: Config, sequence: number): Int32Array<ArrayBuffer> {
  const { relative_attention_num_buckets: all, relative_attention_max_distance: farthest } = config;
  const side = Math.floor(all / 2);
  const exact = Math.floor(side / 2);
  const bucketOf = (distance: number) => {
    if (distance < exact) {
      return distance;
    }
    // Like torch, which rounds the logarithm and the quotient to single precision.
    const share = Math.fround(
      Math.fround(Math.fround(Math.log(Math.fround(distance / exact))) / Math.fround(Math.log(farthest / exact))) *
        (side - exact),
    );
    return Math.min(side - 1, exact + Math.trunc(share));
  };
  const near = Array.from({ length: sequence }, (_, distance) => bucketOf(distance));
  const buckets = new Int32Array(sequence * sequence);
  for (let query = 0; query < sequence; query++) {
    for (let key = 0; key < sequence; key++) {
      buckets[query * sequence + key] = near[Math.abs(key - query)] + (key > query ? side : 0);
    }
  }
  return buckets;
}

/** The bias on every token's scores, [1, 1, 1, sequence], that hides everything after the first `kept`. */
export function paddingMask(sequence: number, kept: number): Float32Array<ArrayBuffer> {
  return new Float32Array(sequence).fill(-60_000, kept);
}

export interface T5Options extends GraphOptions {
  /** Whether padding is masked, by an input `mask`, see {@link paddingMask}. */
  masked?: boolean;
}

/**
 * Inputs `inputs_embeds` [sequence, d_model], `buckets` int32 [sequence, sequence] ({@link distanceBuckets}) and perhaps `mask`; output
 * `last_hidden_state` [1, sequence, d_model].
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: T5Options): Graph {
  const { d_model: width, d_kv, num_heads: heads, d_ff: inner, layer_norm_epsilon: epsilon } = config;
  const { sequence = 512, masked = false } = options;
  const g = new LayerWriter(className, weights, options);
  let hidden = g.floats('inputs_embeds', [sequence, width]);
  const buckets = g.input('buckets', 'int32', [sequence, sequence]);
  const mask = masked ? g.floats('mask', [1, 1, 1, sequence]) : undefined;
  const linear = (path: string, x: Value, out: number, bias: Value | false = false) => g.linear(path, x, out, { bias });

  let distances: Value | undefined;
  for (let layer = 0; layer < config.num_layers; layer++) {
    g.cut();
    const path = `encoder.block.${layer}.layer`;
    const attention = `${path}.0.SelfAttention`;
    const table = `${attention}.relative_attention_bias`;
    // Layers without a table of their own use the first layer's.
    if (!distances || g.has(`${table}.weight`)) {
      distances = distanceBias(g, table, buckets, config, mask);
    }
    const normal = g.rmsNorm(`${path}.0.layer_norm`, hidden, epsilon);
    const [q, k, value] = ['q', 'k', 'v'].map((part) => linear(`${attention}.${part}`, normal, heads * d_kv)) as [
      Value,
      Value,
      Value,
    ];
    const mixed = g.attention(attention, q, k, value, heads, { bias: distances, scale: 1 });
    hidden = linear(`${attention}.o`, mixed, width, hidden);
    const dense = `${path}.1.DenseReluDense`;
    const before = g.rmsNorm(`${path}.1.layer_norm`, hidden, epsilon);
    const active =
      config.feed_forward_proj === 'relu'
        ? g.unary(`${dense}.act`, 'Relu', linear(`${dense}.wi`, before, inner))
        : g.binary(
            dense,
            'Mul',
            g.tanhGelu(`${dense}.act`, linear(`${dense}.wi_0`, before, inner)),
            linear(`${dense}.wi_1`, before, inner),
          );
    hidden = linear(`${dense}.wo`, active, width, hidden);
  }
  g.cut();
  const last = g.rmsNorm('encoder.final_layer_norm', hidden, epsilon);
  g.output('last_hidden_state', g.reshape('last_hidden_state/batch', last, [1, sequence, width]));
  return g.graph();
}

/** The relative position bias on every head's scores, [1, heads, sequence, sequence]. */
function distanceBias(g: LayerWriter, path: string, buckets: Value, config: Config, mask?: Value): Value {
  const { num_heads: heads, relative_attention_num_buckets: rows } = config;
  const [sequence] = buckets.dims;
  const each = g.transpose(`${path}/heads`, g.embedding(path, buckets, rows, heads), [2, 0, 1]);
  const bias = g.reshape(`${path}/batch`, each, [1, heads, sequence, sequence]);
  return mask ? g.add(`${path}/masked`, bias, mask) : bias;
}
