/**
 * The transformer of FLUX.2 and FLUX.2 klein: blocks with separate streams for text and picture, then blocks with one for both.
 * Reference: diffusers/models/transformers/transformer_flux2.py
 */
import * as v from 'valibot';
import { count, flag, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { jointAttention } from './joint_attention.ts';
import { LayerWriter, type Angles } from './layers.ts';
import { continuousNorm, gated, modulated, modulations, type Modulation } from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, timestepWaves, type Extent, type RotaryTables } from './rotary.ts';

export const className = 'Flux2Transformer2DModel';

export const configSchema = v.pipe(
  v.object({
    patch_size: v.optional(v.literal(1), 1),
    in_channels: count(128),
    out_channels: v.optional(v.nullable(v.number()), null),
    num_layers: count(8),
    num_single_layers: count(48),
    attention_head_dim: count(128),
    num_attention_heads: count(48),
    joint_attention_dim: count(15360),
    timestep_guidance_channels: count(256),
    mlp_ratio: real(3),
    axes_dims_rope: v.optional(v.pipe(v.array(v.number()), v.length(4)), () => [32, 32, 32, 32]),
    rope_theta: real(2000),
    eps: real(1e-6),
    guidance_embeds: flag(true),
  }),
  v.check(
    ({ in_channels, out_channels }) => out_channels === null || out_channels === in_channels,
    'its out_channels are others than its in_channels',
  ),
  v.check(
    ({ attention_head_dim, axes_dims_rope }) =>
      axes_dims_rope.reduce((sum, each) => sum + each, 0) === attention_head_dim &&
      axes_dims_rope.every((width) => width % 2 === 0),
    'its axes_dims_rope do not add up to its attention_head_dim',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Distance between pictures on the first axis. */
const APART = 10;

/** Angles of the text's tokens, the picture's, and each reference picture's. */
export function angles(
  { axes_dims_rope, rope_theta }: Config,
  text: number,
  picture: Extent,
  shown: readonly Extent[],
): RotaryTables {
  const ids = Array.from({ length: text }, (_, token) => [0, 0, 0, token]);
  [picture, ...shown].forEach(({ height, width }, at) => {
    for (let token = 0; token < height * width; token++) {
      ids.push([APART * at, Math.floor(token / width), token % width, 0]);
    }
  });
  return rotaryTables(ids, axes_dims_rope, rope_theta, 'f64');
}

/** @param timestep from 1000, noise, to 0 */
export function timeProjection({ timestep_guidance_channels }: Config, timestep: number): Float32Array<ArrayBuffer> {
  return timestepWaves(timestep, timestep_guidance_channels);
}

/** @param scale of the guidance that the network was distilled to take as an input */
export function guidanceProjection(config: Config, scale: number): Float32Array<ArrayBuffer> {
  return timeProjection(config, 1000 * scale);
}

export interface Options extends GraphOptions {
  /** Tokens of the prompt, padding included. */
  text?: number;
  /** The reference pictures shown to the network. */
  shown?: readonly Extent[];
}

/**
 * Inputs `sample` [1, in_channels, height, width], `time_proj` [1, timestep_guidance_channels] and, for a network that takes guidance,
 * `guidance_proj` like it, `prompt_embeds` [1, text, joint_attention_dim], `cos` and `sin` [all tokens, half a head] and, for each reference picture, `shown_<n>` shaped like the
 * sample; output `out_sample` like the sample: the velocity from picture to noise. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { in_channels: channels, num_attention_heads: heads, attention_head_dim: head, joint_attention_dim } = config;
  const { height, width, text = 512, shown = [] } = options;
  const g = new LayerWriter(className, weights, options);
  const dim = heads * head;
  const own = height * width;

  const sample = g.floats('sample', [1, channels, height, width]);
  const all = [sample, ...shown.map((one, k) => g.floats(`shown_${k}`, [1, channels, one.height, one.width]))].map(
    (one) => g.tokens(`${one.name}/tokens`, one),
  );
  const pictures = all.length === 1 ? all[0] : g.concat('pictures', all, 0);
  const embeds = g.reshape('prompt_embeds/tokens', g.floats('prompt_embeds', [1, text, joint_attention_dim]), [
    text,
    joint_attention_dim,
  ]);
  const turns = anglesInput(g, '', text + pictures.dims[0], head / 2);

  const embedded = (name: string, waves: string) => {
    const path = `time_guidance_embed.${name}_embedder`;
    const input = g.floats(waves, [1, config.timestep_guidance_channels]);
    return plain(g, `${path}.linear_2`, g.silu(`${path}.act`, plain(g, `${path}.linear_1`, input, dim)), dim);
  };
  const moment = embedded('timestep', 'time_proj');
  const both = config.guidance_embeds ? g.add('time_guidance', moment, embedded('guidance', 'guidance_proj')) : moment;
  const time = g.silu('time', both);
  const modulation = (path: string, sets: number) =>
    modulations(g, path, plain(g, `${path}.linear`, time, 3 * sets * dim), dim, sets);
  const ofPicture = modulation('double_stream_modulation_img', 2);
  const ofText = modulation('double_stream_modulation_txt', 2);
  const [ofBoth] = modulation('single_stream_modulation', 1);

  let picture = plain(g, 'x_embedder', pictures, dim);
  let words = plain(g, 'context_embedder', embeds, dim);
  for (let layer = 0; layer < config.num_layers; layer++) {
    g.cut();
    const path = `transformer_blocks.${layer}`;
    const streams = {
      picture: modulated(g, `${path}.norm1`, picture, ofPicture[0], config.eps),
      words: modulated(g, `${path}.norm1_context`, words, ofText[0], config.eps),
    };
    const mixed = jointAttention(g, `${path}.attn`, streams, { heads, turns, epsilon: config.eps, biases: false });
    picture = gated(g, `${path}.attn/picture`, picture, mixed.picture, ofPicture[0]);
    words = gated(g, `${path}.attn/words`, words, mixed.words, ofText[0]);
    picture = fed(g, `${path}.norm2`, `${path}.ff`, picture, ofPicture[1], config);
    words = fed(g, `${path}.norm2_context`, `${path}.ff_context`, words, ofText[1], config);
  }
  g.cut();
  let stream = g.concat('stream', [words, picture], 0);
  for (let layer = 0; layer < config.num_single_layers; layer++) {
    g.cut();
    const path = `single_transformer_blocks.${layer}`;
    const normal = modulated(g, `${path}.norm`, stream, ofBoth, config.eps);
    stream = gated(g, path, stream, parallel(g, `${path}.attn`, normal, config, turns), ofBoth);
  }

  g.cut();
  const rest = pictures.dims[0] - own;
  const result = g.split('stream/parts', stream, [text, own, ...(rest === 0 ? [] : [rest])], 0)[1];
  const last = continuousNorm(g, 'norm_out', result, time, config.eps, { bias: false });
  g.output('out_sample', g.untokens('out_sample/picture', plain(g, 'proj_out', last, channels), sample));
  return g.graph();
}

function fed(g: LayerWriter, norm: string, path: string, x: Value, modulation: Modulation, config: Config): Value {
  const [, dim] = x.dims as [number, number];
  const inner = Math.floor(dim * config.mlp_ratio);
  const both = plain(g, `${path}.linear_in`, modulated(g, norm, x, modulation, config.eps), 2 * inner);
  const [gate, value] = g.split(`${path}/parts`, both, [inner, inner], 1);
  return gated(g, path, x, plain(g, `${path}.linear_out`, swiglu(g, path, gate, value), dim), modulation);
}

/** Attention and feed-forward in parallel, from one projection and into one. */
function parallel(g: LayerWriter, path: string, x: Value, config: Config, turns: Angles): Value {
  const { num_attention_heads: heads, eps } = config;
  const [, dim] = x.dims as [number, number];
  const inner = Math.floor(dim * config.mlp_ratio);
  const all = plain(g, `${path}.to_qkv_mlp_proj`, x, 3 * dim + 2 * inner);
  const [q, k, value, gate, up] = g.split(`${path}/parts`, all, [dim, dim, dim, inner, inner], 1);
  const turned = (part: 'q' | 'k', each: Value) =>
    g.rotary(`${path}/${part}/turned`, g.headNorm(`${path}.norm_${part}`, each, heads, eps), turns, 'neighbours');
  const mixed = g.attention(path, turned('q', q), turned('k', k), value, heads);
  return plain(g, `${path}.to_out`, g.concat(`${path}/joined`, [mixed, swiglu(g, path, gate, up)], 1), dim);
}

function swiglu(g: LayerWriter, path: string, gate: Value, value: Value): Value {
  return g.binary(`${path}/swiglu`, 'Mul', g.silu(`${path}/silu`, gate), value);
}

function plain(g: LayerWriter, path: string, x: Value, out: number): Value {
  return g.linear(path, x, out, { bias: false });
}
