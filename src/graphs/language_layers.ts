/** What language models that read prompts share: layers of causal attention over fewer keys than queries, and gated feed-forwards. */
import { assert } from '../core/errors.ts';
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
  /** Which elements of a head are turned together; absent = half a head apart. See `StoredTensor`. */
  pairs?: 'halves' | 'neighbours' | undefined;
  /** Whether queries and keys are normalised head by head. */
  headNorms: boolean;
  /** Whether the projections to queries, keys and values have biases. */
  biases: boolean;
  /** Added to the scores, [1, 1, tokens, tokens]; absent = a token sees itself and all before it. */
  mask?: Value | undefined;
  /** What attention gives each token is multiplied by this, [tokens, 1]; 0 for one that sees nothing. */
  sight?: Value | undefined;
}

export interface LayerStates extends LanguageLayerOptions {
  /** Numbers of layers after which the hidden states are wanted, from 1 up; those after the last one come with the model's own norm. */
  after: readonly number[];
  /** Whether there is such a norm. */
  normed: boolean;
}

/**
 * Runs layers on `hidden` [tokens, hidden_size] until the last states that are wanted.
 * @param root prefix of the model's weights
 * @returns each token's states side by side, [1, tokens, hidden_size · after.length]
 */
export function layerStates(
  g: LayerWriter,
  root: string,
  hidden: Value,
  config: LanguageLayer & { num_hidden_layers: number },
  { after, normed, ...options }: LayerStates,
): Value {
  const { num_hidden_layers: layers, rms_norm_eps: epsilon } = config;
  assert(
    after.length > 0 && after.every((layer) => layer > 0 && layer <= layers),
    'hidden states come from layers that are there',
  );
  const wanted = new Map<number, Value>();
  let current = hidden;
  for (let layer = 0; layer < Math.max(...after); layer++) {
    g.cut();
    current = languageLayer(g, `${root}layers.${layer}`, current, config, options);
    wanted.set(layer + 1, current);
  }
  g.cut();
  const states = after.map((layer) => {
    const state = wanted.get(layer) as Value;
    return normed && layer === layers ? g.rmsNorm(`${root}norm`, state, epsilon) : state;
  });
  const joined = states.length === 1 ? states[0] : g.concat('hidden_states/joined', states, 1);
  return g.reshape('hidden_states/batch', joined, [1, ...joined.dims]);
}

/** A decoder layer of Qwen2.5, Qwen3 or Mistral on [tokens, hidden_size]. */
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
  { turns, pairs = 'halves', headNorms, biases, mask, sight }: LanguageLayerOptions,
): Value {
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim: head, rms_norm_eps: epsilon } = config;
  const project = (name: string, count: number) => g.linear(`${path}.${name}_proj`, x, count * head, { bias: biases });
  const turned = (name: 'q' | 'k', count: number) => {
    const projected = project(name, count);
    const normal = headNorms ? g.headNorm(`${path}.${name}_norm`, projected, count, epsilon) : projected;
    return g.rotary(`${path}/${name}`, normal, turns, pairs);
  };
  const shared = (name: string, value: Value) => g.repeatHeads(`${path}/${name}/heads`, value, groups, heads);
  const [k, v] = [shared('k', turned('k', groups)), shared('v', project('v', groups))];
  const seen = g.attention(path, turned('q', heads), k, v, heads, mask ? { bias: mask } : { causal: true });
  return sight ? g.binary(`${path}/seen`, 'Mul', seen, sight) : seen;
}
