/**
 * Stable Audio's transformer: latents along time attend to each other and to the text; noise level and length form a token before them.
 * Reference: diffusers/models/transformers/stable_audio_transformer.py
 */
import * as v from 'valibot';
import { count, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, type RotaryTables } from './rotary.ts';
import { mixed, twoLayers } from './stable_audio_layers.ts';

export const className = 'StableAudioDiTModel';

const EPSILON = 1e-5;
/** A feed-forward layer's width, as a multiple of the stream's. */
const INNER = 4;
const THETA = 10_000;
/** Name of the tensor with the noise level's frequencies. */
export const FREQUENCIES = 'time_proj.weight';

export const configSchema = v.pipe(
  v.object({
    sample_size: count(1024),
    in_channels: count(64),
    num_layers: count(24),
    attention_head_dim: count(64),
    num_attention_heads: count(24),
    num_key_value_attention_heads: count(12),
    out_channels: count(64),
    cross_attention_dim: count(768),
    time_proj_dim: count(256),
    global_states_input_dim: count(1536),
    cross_attention_input_dim: count(768),
  }),
  v.check(
    ({ in_channels, out_channels }) => in_channels === out_channels,
    'its out_channels are others than its in_channels',
  ),
  v.check(
    ({ num_attention_heads, num_key_value_attention_heads }) =>
      num_attention_heads % num_key_value_attention_heads === 0,
    'its heads cannot share its num_key_value_attention_heads',
  ),
  v.check(({ attention_head_dim }) => attention_head_dim % 4 === 0, 'half of its attention_head_dim is not even'),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Elements of each head that are rotated by position. */
const turnedOf = ({ attention_head_dim: width }: Config) => width / 2;

/** Cosines and sines of the positions, for all latents and the token before them. */
export function angles(config: Config): RotaryTables {
  const ids = Array.from({ length: config.sample_size + 1 }, (_, position) => [position]);
  return rotaryTables(ids, [turnedOf(config)], THETA);
}

/**
 * The sinusoid of a timestep, cosines first: [1, 2 · frequencies].
 * @param timestep from 1, noise, to 0
 * @param frequencies the numbers of {@link FREQUENCIES}
 */
export function timeProjection(timestep: number, frequencies: Float32Array): Float32Array<ArrayBuffer> {
  const turn = Math.fround(2 * Math.PI * timestep);
  const projected = frequencies.map((frequency) => turn * frequency);
  return Float32Array.from([...projected.map(Math.cos), ...projected.map(Math.sin)]);
}

export interface Options extends GraphOptions {
  /** Tokens of the context: the prompt's, padding included, and two for the seconds. */
  text: number;
}

/**
 * Inputs `sample` [1, in_channels, 1, sample_size], `time_proj` [1, time_proj_dim], `encoder_hidden_states`
 * [text, cross_attention_input_dim], `global_hidden_states` [1, global_states_input_dim], `cos` and `sin` [sample_size + 1,
 * attention_head_dim / 4]; output `out_sample` like the sample. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { sample_size: length, in_channels: channels, attention_head_dim, num_attention_heads: heads } = config;
  const dim = attention_head_dim * heads;
  const g = new LayerWriter(className, weights, options);
  const without = { bias: false };

  const sample = g.floats('sample', [1, channels, 1, length]);
  const time = twoLayers(g, 'timestep_proj', g.floats('time_proj', [1, config.time_proj_dim]), dim);
  const given = g.floats('encoder_hidden_states', [options.text, config.cross_attention_input_dim]);
  const text = twoLayers(g, 'cross_attention_proj', given, config.cross_attention_dim, without);
  const whole = g.floats('global_hidden_states', [1, config.global_states_input_dim]);
  const first = g.add('global', twoLayers(g, 'global_proj', whole, dim, without), time);
  const turns = anglesInput(g, '', length + 1, turnedOf(config) / 2);

  const tokens = mixed(g, 'preprocess_conv', g.tokens('sample/tokens', sample));
  let hidden = g.concat('tokens', [first, g.linear('proj_in', tokens, dim, without)], 0);
  for (let layer = 0; layer < config.num_layers; layer++) {
    hidden = block(g, `transformer_blocks.${layer}`, hidden, text, turns, config);
  }
  const last = g.linear('proj_out', hidden, channels, without);
  const [, own] = g.split('own', last, [1, length], 0);
  g.output('out_sample', g.untokens('out_sample/line', mixed(g, 'postprocess_conv', own), sample));
  return g.graph();
}

/** StableAudioDiTBlock. */
function block(g: LayerWriter, path: string, x: Value, text: Value, turns: Angles, config: Config): Value {
  const { attention_head_dim: width, num_attention_heads: heads, num_key_value_attention_heads: shared } = config;
  const [, dim] = x.dims;
  const linear = (name: string, from: Value, out: number, bias: Value | false = false) =>
    g.linear(`${path}.${name}`, from, out, { bias });
  const part = { heads, turned: turnedOf(config) };

  const own = g.layerNorm(`${path}.norm1`, x, EPSILON);
  const [q, k] = ['q', 'k'].map((name) =>
    g.rotary(`${path}.attn1/${name}/turned`, linear(`attn1.to_${name}`, own, dim), turns, 'halves', part),
  );
  const looked = g.attention(`${path}.attn1`, q, k, linear('attn1.to_v', own, dim), heads);
  let hidden = linear('attn1.to_out.0', looked, dim, x);

  const query = linear('attn2.to_q', g.layerNorm(`${path}.norm2`, hidden, EPSILON), dim);
  const [key, value] = ['k', 'v'].map((name) =>
    g.repeatHeads(`${path}.attn2/${name}/heads`, linear(`attn2.to_${name}`, text, shared * width), shared, heads),
  );
  hidden = linear('attn2.to_out.0', g.attention(`${path}.attn2`, query, key, value, heads), dim, hidden);

  const before = g.layerNorm(`${path}.norm3`, hidden, EPSILON);
  const projected = g.linear(`${path}.ff.net.0.proj`, before, 2 * INNER * dim);
  const [inner, gate] = g.split(`${path}.ff.net.0/parts`, projected, [INNER * dim, INNER * dim], 1);
  const active = g.binary(`${path}.ff.net.0`, 'Mul', inner, g.silu(`${path}.ff.net.0/gate`, gate));
  return g.add(`${path}.ff/add`, g.linear(`${path}.ff.net.2`, active, dim), hidden);
}
