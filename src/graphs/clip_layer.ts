/**
 * One layer of CLIP's transformers, which its text and its vision encoder share.
 * Reference: transformers/models/clip/modeling_clip.py (CLIPEncoderLayer)
 */
import type { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export interface LayerConfig {
  intermediate_size: number;
  num_attention_heads: number;
  hidden_act: 'quick_gelu' | 'gelu';
  layer_norm_eps: number;
}

/** The residual stream [batch·sequence, hidden_size], and the same after the norm of the layer that reads it. */
export interface LayerState {
  residual: Value;
  normal: Value;
}

/**
 * @param next the norm of whatever reads the layer's result
 * @param causal whether a token sees only those before it
 */
export function clipLayer(
  g: LayerWriter,
  path: string,
  { residual, normal }: LayerState,
  next: string,
  config: LayerConfig,
  causal: boolean,
): LayerState {
  const { layer_norm_eps: epsilon } = config;
  const mixed = selfAttention(g, `${path}.self_attn`, normal, config.num_attention_heads, causal);
  const attended = g.linearAddNorm(`${path}.self_attn.out_proj`, mixed, residual, `${path}.layer_norm2`, epsilon);
  const inner = g.linear(`${path}.mlp.fc1`, attended.normal, config.intermediate_size);
  const active =
    config.hidden_act === 'quick_gelu'
      ? g.quickGelu(`${path}.mlp.activation_fn`, inner)
      : g.unary(`${path}.mlp.activation_fn`, 'Gelu', inner);
  return g.linearAddNorm(`${path}.mlp.fc2`, active, attended.residual, next, epsilon);
}

function selfAttention(g: LayerWriter, path: string, x: Value, heads: number, causal: boolean): Value {
  const width = x.dims[1];
  const [q, k, value] = ['q_proj', 'k_proj', 'v_proj'].map((name) => g.linear(`${path}.${name}`, x, width)) as [
    Value,
    Value,
    Value,
  ];
  return g.attention(path, q, k, value, heads, { causal });
}
