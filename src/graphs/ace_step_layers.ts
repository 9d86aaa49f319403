/**
 * What ACE-Step's networks have in common: attention in which heads share keys, over everything or within a window, and layers of it.
 * Reference: diffusers/models/transformers/ace_step_transformer.py
 */
import * as v from 'valibot';
import { count, real, unused } from './config.ts';
import type { Angles, LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, type RotaryTables } from './rotary.ts';

const layerTypes = v.nullish(v.array(v.picklist(['sliding_attention', 'full_attention'])));

/** The entries of a `config.json` that these layers read. */
export const attentionEntries = {
  hidden_size: count(2048),
  intermediate_size: count(6144),
  num_attention_heads: count(16),
  num_key_value_heads: count(8),
  head_dim: count(128),
  rope_theta: real(1_000_000),
  attention_bias: unused(false),
  rms_norm_eps: real(1e-6),
  sliding_window: count(128),
  layer_types: layerTypes,
};

export interface AttentionConfig {
  hidden_size: number;
  intermediate_size: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  rope_theta: number;
  rms_norm_eps: number;
  sliding_window: number;
  layer_types?: ('sliding_attention' | 'full_attention')[] | null | undefined;
}

export function sharesHeads({ num_attention_heads: heads, num_key_value_heads: shared }: AttentionConfig): boolean {
  return heads % shared === 0;
}

export const UNSHARED = 'its num_key_value_heads does not divide its num_attention_heads';

export function hasEvenHead({ head_dim }: AttentionConfig): boolean {
  return head_dim % 2 === 0;
}

export const ODD_HEAD = 'its head_dim is odd';

/** Whether a layer looks no further than its window; without a list every other one does, the first included. */
export function isSliding(types: AttentionConfig['layer_types'], layer: number): boolean {
  return types ? types[layer] === 'sliding_attention' : layer % 2 === 0;
}

/** For positions 0 to `tokens` − 1. */
export function angles({ head_dim, rope_theta }: AttentionConfig, tokens: number): RotaryTables {
  const positions = Array.from({ length: tokens }, (_, position) => [position]);
  return rotaryTables(positions, [head_dim], rope_theta);
}

/** Low enough that a share of the attention becomes 0. */
const HIDDEN = -60_000;

/** Adds to scores what hides all tokens from the first `kept` on: [1, 1, 1, tokens]. */
export function paddingBias(tokens: number, kept: number): Float32Array<ArrayBuffer> {
  return new Float32Array(tokens).fill(HIDDEN, kept);
}

/** Dimensions of {@link windowBias}; null where a window holds all tokens. */
export function windowDims(tokens: number, window: number): [number, number, number, number] | null {
  return tokens <= window + 1 ? null : [Math.ceil(tokens / window), 1, window, 3 * window];
}

/**
 * Which tokens see which within a window, of whom the first `kept` are no padding. Tokens lie in blocks of the window's length, and each
 * block looks at itself and its two neighbours, so that the work grows with the length and not with its square.
 */
export function windowBias(tokens: number, window: number, kept = tokens): Float32Array<ArrayBuffer> {
  const [blocks] = windowDims(tokens, window) ?? [0];
  const bias = new Float32Array(blocks * window * 3 * window).fill(HIDDEN);
  for (let token = 0; token < blocks * window; token++) {
    const first = (Math.floor(token / window) - 1) * window;
    const from = Math.max(token - window, 0);
    const until = Math.min(token + window + 1, kept);
    if (from < until) {
      bias.fill(0, token * 3 * window + from - first, token * 3 * window + until - first);
    }
  }
  return bias;
}

/** What the tokens of a sequence know of each other. */
export interface Sight {
  turns: Angles;
  /** Input of {@link windowBias} for layers that look no further; null where the window holds all. */
  window: Value | null;
  /** Added to the scores [1, 1, queries, keys] of layers without a window; null = all see all. */
  bias: Value | null;
}

/** The inputs `${prefix}cos`, `${prefix}sin` and, where the window does not hold all, `${prefix}window`. */
export function sightInputs(g: LayerWriter, prefix: string, tokens: number, config: AttentionConfig): Sight {
  const dims = windowDims(tokens, config.sliding_window);
  const turns = anglesInput(g, prefix, tokens, config.head_dim / 2);
  return { turns, window: dims && g.floats(`${prefix}window`, dims), bias: null };
}

/** An input of {@link paddingBias} for as many queries. */
export function paddingInput(g: LayerWriter, name: string, queries: number, keys: number): Value {
  return g.expand(`${name}/rows`, g.floats(name, [1, 1, 1, keys]), [1, 1, queries, keys]);
}

/**
 * AceStepAttention with its output projection, added to `added`.
 * @param x [rows, hidden_size]
 * @param sight of itself, or what it looks at instead, with what is added to the scores
 */
export function attention(
  g: LayerWriter,
  path: string,
  x: Value,
  config: AttentionConfig,
  sight: (Sight & { isSliding: boolean }) | { at: Value; bias: Value | null },
  added: Value | false,
): Value {
  const { num_attention_heads: heads, num_key_value_heads: shared, head_dim: head, rms_norm_eps: epsilon } = config;
  const from = 'at' in sight ? sight.at : x;
  const project = (name: string, of: Value, count: number) =>
    g.linear(`${path}.to_${name}`, of, count * head, { bias: false });
  const normal = (name: 'q' | 'k', of: Value, count: number) => {
    const normed = g.headNorm(`${path}.norm_${name}`, project(name, of, count), count, epsilon);
    return 'at' in sight ? normed : g.rotary(`${path}/${name}/turned`, normed, sight.turns, 'halves');
  };
  const [q, k, value] = [normal('q', x, heads), normal('k', from, shared), project('v', from, shared)];
  const window = 'at' in sight || !sight.isSliding ? null : sight.window;
  const seen = window
    ? withinWindow(g, path, q, k, value, config, window)
    : g.attention(
        path,
        q,
        g.repeatHeads(`${path}/k/heads`, k, shared, heads),
        g.repeatHeads(`${path}/v/heads`, value, shared, heads),
        heads,
        sight.bias ? { bias: sight.bias } : {},
      );
  return g.linear(`${path}.to_out.0`, seen, config.hidden_size, { bias: added });
}

/** Attention of blocks of tokens to themselves and their neighbours; see {@link windowBias}. */
function withinWindow(
  g: LayerWriter,
  path: string,
  q: Value,
  k: Value,
  value: Value,
  { num_attention_heads: heads, num_key_value_heads: shared }: AttentionConfig,
  bias: Value,
): Value {
  const [blocks, , size] = bias.dims;
  const [rows, width] = k.dims;
  const whole = blocks * size;
  const filled = (name: string, x: Value) =>
    rows === whole ? x : g.concat(`${path}/${name}/filled`, [x, g.fill(0, [whole - rows, x.dims[1]])], 0);
  // Keys and values move together, which halves the launches.
  const own = filled('kv', g.concat(`${path}/kv`, [k, value], 1));
  const none = g.fill(0, [size, 2 * width]);
  const [front] = g.split(`${path}/kv/front`, own, [whole - size, size], 0);
  const [, back] = g.split(`${path}/kv/back`, own, [size, whole - size], 0);
  const neighbours = [
    g.concat(`${path}/kv/before`, [none, front], 0),
    own,
    g.concat(`${path}/kv/after`, [back, none], 0),
  ].map((part, n) => g.reshape(`${path}/kv/blocks.${n}`, part, [blocks, size, 2 * width]));
  const seen = g.reshape(`${path}/kv/seen`, g.concat(`${path}/kv/three`, neighbours, 1), [3 * whole, 2 * width]);
  const [keys, values] = g
    .split(`${path}/kv/apart`, seen, [width, width], 1)
    .map((part, n) => g.repeatHeads(`${path}/${n === 0 ? 'k' : 'v'}/heads`, part, shared, heads));
  const mixed = g.attention(path, filled('q', q), keys, values, heads, { bias, batch: blocks });
  return g.firstOf(`${path}/own`, mixed, rows);
}

/**
 * The layers `${prefix}layers.0` … of AceStepEncoderLayer, and the norm after them.
 * @param sightOf a layer that looks no further than its window, and one that looks everywhere
 */
export function encoderLayers(
  g: LayerWriter,
  prefix: string,
  x: Value,
  config: AttentionConfig,
  { count: layers, types }: { count: number; types: AttentionConfig['layer_types'] },
  sightOf: (isSliding: boolean) => Sight,
): Value {
  const { rms_norm_eps: epsilon, intermediate_size: inner } = config;
  let hidden = x;
  for (let layer = 0; layer < layers; layer++) {
    const path = `${prefix}layers.${layer}`;
    const sliding = isSliding(types, layer);
    const own = g.rmsNorm(`${path}.input_layernorm`, hidden, epsilon);
    hidden = attention(g, `${path}.self_attn`, own, config, { ...sightOf(sliding), isSliding: sliding }, hidden);
    const normal = g.rmsNorm(`${path}.post_attention_layernorm`, hidden, epsilon);
    hidden = g.swiGlu(`${path}.mlp`, normal, inner, hidden);
  }
  return g.rmsNorm(`${prefix}norm`, hidden, epsilon);
}

/** The sight of a few tokens of each of the graph's batch, of whom a window may hold only some. */
export function shortSight(g: LayerWriter, tokens: number, config: AttentionConfig): (isSliding: boolean) => Sight {
  const turns = anglesInput(g, '', tokens, config.head_dim / 2);
  const { sliding_window: window } = config;
  if (tokens <= window + 1) {
    return () => ({ turns, window: null, bias: null });
  }
  const values = Array.from({ length: tokens * tokens }, (_, at) =>
    Math.abs(Math.floor(at / tokens) - (at % tokens)) <= window ? 0 : HIDDEN,
  );
  const bias = g.reshape('window', g.constant(values, 'f32'), [1, 1, tokens, tokens]);
  return (isSliding) => ({ turns, window: null, bias: isSliding ? bias : null });
}
