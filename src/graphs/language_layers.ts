/** What language models that read prompts share: layers of causal attention over fewer keys than queries, and gated feed-forwards. */
import type { Angles, LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export interface LanguageLayer {
  hidden_size: number;
  intermediate_size: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  rms_norm_eps: number;
}

export interface LanguageLayerOptions {
  turns: Angles;
  /** Whether queries and keys are normalised head by head. */
  headNorms: boolean;
  /** Whether the projections to queries, keys and values have biases. */
  biases: boolean;
  /** Added to the scores, [1, 1, tokens, tokens]; absent = a token sees itself and all before it. */
  mask?: Value | undefined;
}

/** A decoder layer of Qwen2.5 or Qwen3 on [tokens, hidden_size]. */
export function languageLayer(
  g: LayerWriter,
  path: string,
  x: Value,
  config: LanguageLayer,
  options: LanguageLayerOptions,
): Value {
  const { hidden_size: width, rms_norm_eps: epsilon } = config;
  const normal = g.rmsNorm(`${path}.input_layernorm`, x, epsilon);
  const mixed = selfAttention(g, `${path}.self_attn`, normal, config, options);
  const hidden = g.linear(`${path}.self_attn.o_proj`, mixed, width, { bias: x });
  const inner = g.rmsNorm(`${path}.post_attention_layernorm`, hidden, epsilon);
  return g.swiGlu(`${path}.mlp`, inner, config.intermediate_size, hidden);
}

function selfAttention(
  g: LayerWriter,
  path: string,
  x: Value,
  config: LanguageLayer,
  { turns, headNorms, biases, mask }: LanguageLayerOptions,
): Value {
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim: head, rms_norm_eps: epsilon } = config;
  const project = (name: string, count: number) => g.linear(`${path}.${name}_proj`, x, count * head, { bias: biases });
  const turned = (name: 'q' | 'k', count: number) => {
    const projected = project(name, count);
    const normal = headNorms ? g.headNorm(`${path}.${name}_norm`, projected, count, epsilon) : projected;
    return g.rotary(`${path}/${name}`, normal, turns, 'halves');
  };
  const shared = (name: string, value: Value) => g.repeatHeads(`${path}/${name}/heads`, value, groups, heads);
  const [k, v] = [shared('k', turned('k', groups)), shared('v', project('v', groups))];
  return g.attention(path, turned('q', heads), k, v, heads, mask ? { bias: mask } : { causal: true });
}
