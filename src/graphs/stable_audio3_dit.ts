/**
 * Stable Audio 3's transformer: latents along time, behind tokens that are learnt, attend to each other and to words and duration, each layer
 * twice, and the second view is taken from the first. Reference: diffusers/models/transformers/transformer_stable_audio3.py
 */
import * as v from 'valibot';
import { linspace } from '../core/linspace.ts';
import { count, flag, only, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import { oneMore, scaledAndShifted } from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, type RotaryTables } from './rotary.ts';
import { differential, mixed, queriesKeysValues, twoLayers } from './stable_audio_layers.ts';

export const className = 'StableAudio3DiTModel';

const EPSILON = 1e-6;
/** The slowest and fastest turns of the noise level's sinusoid. */
const [SLOWEST, FASTEST] = [0.5, 10_000];
/** Names of the tensors with the speeds of positions, and with what stands in place of padding. */
export const SPEEDS = 'rotary_pos_emb.inv_freq';
export const PADDING = 'prompt_padding_embedding';

export const configSchema = v.pipe(
  v.object({
    io_channels: count(256),
    patch_size: only([1], 1),
    embed_dim: count(1536),
    depth: count(24),
    num_heads: count(24),
    cond_token_dim: count(768),
    global_cond_dim: count(768),
    local_add_cond_dim: count(257),
    timestep_features_dim: count(256),
    ff_mult: v.optional(v.pipe(v.number(), v.gtValue(0)), 4),
    num_memory_tokens: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0)), 64),
    use_differential_attention: flag(true),
    /** Of the layout, not of diffusers' configurations. */
    qkv_order: v.optional(v.picklist(['views', 'authors']), 'views'),
  }),
  v.check(({ embed_dim, num_heads }) => embed_dim % num_heads === 0, 'its num_heads does not divide its embed_dim'),
  v.check(
    ({ embed_dim, num_heads }) => (embed_dim / num_heads) % 4 === 0,
    'half of the width of its heads is not even',
  ),
  v.check(({ timestep_features_dim }) => timestep_features_dim % 2 === 0, 'its timestep_features_dim is odd'),
  v.check(
    ({ io_channels, local_add_cond_dim }) => local_add_cond_dim === io_channels + 1,
    'its local_add_cond_dim and io_channels do not fit',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Elements of each head that are rotated by position, by halves. */
export function turnedOf({ embed_dim, num_heads }: Config): number {
  return embed_dim / num_heads / 2;
}

/** Cosines and sines of `tokens` positions. @param speeds the numbers of {@link SPEEDS} */
export function angles(speeds: Float32Array, tokens: number): RotaryTables {
  const all = Float32Array.from({ length: tokens * speeds.length }, (_, at) =>
    Math.fround(Math.floor(at / speeds.length) * speeds[at % speeds.length]),
  );
  return { cos: all.map(Math.cos), sin: all.map(Math.sin) };
}

/** The sinusoid of a timestep from 1, noise, to 0, cosines first: [timestep_features_dim]. In single precision, as the reference's. */
export function timeProjection({ timestep_features_dim: width }: Config, timestep: number): Float32Array<ArrayBuffer> {
  const f = Math.fround;
  const half = width / 2;
  const [first, range] = [f(Math.log(SLOWEST)), f(Math.log(FASTEST) - Math.log(SLOWEST))];
  const angles = linspace(0, 1, half).map((ramp) => {
    const speed = f(Math.exp(f(f(ramp * range) + first)));
    return f(f(f(f(timestep) * speed) * 2) * f(Math.PI));
  });
  return Float32Array.from([...angles.map(Math.cos), ...angles.map(Math.sin)]);
}

export interface Options extends GraphOptions {
  /** Tokens of the context: the prompt's, padding included, and the duration. */
  text: number;
  /** Whether it is told what is to stay: by an input `local_add_cond`. */
  keeps: boolean;
}

/**
 * Inputs `sample` [1, io_channels, 1, width], `time_proj` [1, timestep_features_dim], `encoder_hidden_states` [text, cond_token_dim],
 * `global_hidden_states` [1, global_cond_dim], `cos` and `sin` [num_memory_tokens + width, {@link turnedOf} / 2], and perhaps
 * `local_add_cond` [width, local_add_cond_dim]: 1 for what stays, and its latents; output `out_sample` like the sample. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { io_channels: channels, embed_dim: dim, num_memory_tokens: memory } = config;
  const { width: length } = options;
  const g = new LayerWriter(className, weights, options);
  const without = { bias: false };

  const sample = g.floats('sample', [1, channels, 1, length]);
  const time = twoLayers(g, 'to_timestep_embed', g.floats('time_proj', [1, config.timestep_features_dim]), dim);
  const given = g.floats('encoder_hidden_states', [options.text, config.cond_token_dim]);
  const context = twoLayers(g, 'to_cond_embed', given, dim, without);
  const duration = g.floats('global_hidden_states', [1, config.global_cond_dim]);
  const whole = g.add('global', twoLayers(g, 'to_global_embed', duration, dim, without), time);
  const inner = g.silu('global_cond_embedder.1', g.linear('global_cond_embedder.0', whole, dim));
  const modulation = g.linear('global_cond_embedder.2', inner, 6 * dim);
  const turns = anglesInput(g, '', memory + length, turnedOf(config) / 2);
  const kept = options.keeps ? g.floats('local_add_cond', [length, config.local_add_cond_dim]) : null;

  const tokens = mixed(g, 'preprocess_conv', g.tokens('sample/tokens', sample));
  const own = g.linear('proj_in', tokens, dim, without);
  let hidden = memory > 0 ? g.concat('tokens', [g.weight('memory_tokens', [memory, dim]), own], 0) : own;
  for (let layer = 0; layer < config.depth; layer++) {
    g.cut();
    hidden = block(g, `transformer_blocks.${layer}`, hidden, { context, modulation, turns, kept }, config);
  }
  g.cut();
  const last = memory > 0 ? g.split('own', hidden, [memory, length], 0)[1] : hidden;
  const out = mixed(g, 'postprocess_conv', g.linear('proj_out', last, channels, without));
  g.output('out_sample', g.untokens('out_sample/line', out, sample));
  return g.graph();
}

interface Told {
  context: Value;
  /** Of all blocks, [1, 6 · dim]. */
  modulation: Value;
  turns: Angles;
  kept: Value | null;
}

/** StableAudio3DiTBlock. */
function block(
  g: LayerWriter,
  path: string,
  x: Value,
  { context, modulation, turns, kept }: Told,
  config: Config,
): Value {
  const { embed_dim: dim, num_memory_tokens: memory, use_differential_attention: twice } = config;
  const own = g.add(`${path}/modulation`, modulation, g.weight(`${path}.to_scale_shift_gate`, [1, 6 * dim]));
  const parts = g.split(
    `${path}/parts`,
    own,
    Array.from({ length: 6 }, () => dim),
    1,
  );
  const [attention, feed] = [0, 3].map((at) => ({
    scale: oneMore(g, `${path}/scale/${at}`, parts[at]),
    shift: parts[at + 1],
    gate: g.unary(
      `${path}/gate/${at}`,
      'Sigmoid',
      g.binary(`${path}/closed/${at}`, 'Sub', g.fill(1, [1, dim]), parts[at + 2]),
    ),
  }));
  const norm = (name: string, from: Value) =>
    g.scaledRmsNorm(name, from, g.weight(`${name}.gamma`, [from.dims[1]]), EPSILON);
  const gated = (name: string, change: Value, gate: Value) => g.binary(`${path}/${name}/gated`, 'Mul', change, gate);
  const linear = (name: string, from: Value, out: number, bias: Value | false = false) =>
    g.linear(`${path}.${name}`, from, out, { bias });

  const before = scaledAndShifted(g, `${path}.pre_norm`, norm(`${path}.pre_norm`, x), attention);
  const seen = selfAttention(g, `${path}.self_attn`, before, turns, config);
  let hidden = g.add(`${path}/seen`, x, gated('self_attn', linear('self_attn.to_out', seen, dim), attention.gate));

  const cross = `${path}.cross_attn`;
  const views = twice ? 2 : 1;
  const heads = views * config.num_heads;
  const query = linear('cross_attn.to_q', norm(`${path}.cross_attend_norm`, hidden), views * dim);
  const [key, value] = g.split(
    `${cross}/kv`,
    linear('cross_attn.to_kv', context, (views + 1) * dim),
    [views * dim, dim],
    1,
  );
  const [q, k] = [query, key].map((one, i) => headNorm(g, `${cross}.${'qk'[i]}_norm`, one, heads));
  const told = differential(g, cross, { q, k, v: value }, config.num_heads, twice);
  hidden = linear('cross_attn.to_out', told, dim, hidden);

  if (kept) {
    const local = twoLayers(g, `${path}.to_local_embed`, kept, dim);
    const [first, rest] = memory > 0 ? g.split(`${path}/local`, hidden, [memory, kept.dims[0]], 0) : [null, hidden];
    const added = g.add(`${path}/local/added`, rest, local);
    hidden = first ? g.concat(`${path}/local/joined`, [first, added], 0) : added;
  }

  const last = scaledAndShifted(g, `${path}.ff_norm`, norm(`${path}.ff_norm`, hidden), feed);
  const inner = Math.trunc(dim * config.ff_mult);
  const [up, gate] = g.split(`${path}.ff/parts`, g.linear(`${path}.ff.proj_in`, last, 2 * inner), [inner, inner], 1);
  const active = g.binary(`${path}.ff`, 'Mul', up, g.silu(`${path}.ff/gate`, gate));
  const fed = g.linear(`${path}.ff.proj_out`, active, dim);
  return g.add(`${path}/fed`, hidden, gated('ff', fed, feed.gate));
}

/** @returns before the last projection */
function selfAttention(g: LayerWriter, path: string, x: Value, turns: Angles, config: Config): Value {
  const { num_heads, use_differential_attention: twice } = config;
  const views = twice ? 2 : 1;
  const heads = views * num_heads;
  const [query, key, v] = queriesKeysValues(g, path, x, { twice, order: config.qkv_order });
  const [q, k] = [query, key].map((one, i) => {
    const part = 'qk'[i];
    const normal = headNorm(g, `${path}.${part}_norm`, one, heads);
    return g.rotary(`${path}/${part}/turned`, normal, turns, 'halves', { heads, turned: turnedOf(config) });
  });
  return differential(g, path, { q, k, v }, num_heads, twice);
}

function headNorm(g: LayerWriter, path: string, x: Value, heads: number): Value {
  return g.perHead(path, x, heads, (parts) =>
    g.scaledRmsNorm(path, parts, g.weight(`${path}.gamma`, [parts.dims[1]]), EPSILON),
  );
}
