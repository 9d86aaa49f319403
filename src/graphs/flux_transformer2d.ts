/**
 * The transformer of FLUX.1: blocks with separate streams for text and picture, then blocks with one for both.
 * Reference: diffusers/models/transformers/transformer_flux.py
 */
import * as v from 'valibot';
import { count, flag, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { jointAttention } from './joint_attention.ts';
import { LayerWriter, type Angles } from './layers.ts';
import {
  continuousNorm,
  embedded,
  feedForward,
  gated,
  modulated,
  modulations,
  patches,
  unpatched,
  type Modulation,
} from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, timestepWaves, type RotaryTables } from './rotary.ts';

export const className = 'FluxTransformer2DModel';

/** Latents per side of a token: the pipeline packs them before the network, whose own patch size is one. */
export const PATCH = 2;
const WAVES = 256;
const EPSILON = 1e-6;
const THETA = 10_000;
/** A feed-forward layer's width, as a multiple of the stream's. */
const INNER = 4;

export const configSchema = v.pipe(
  v.object({
    patch_size: v.optional(v.literal(1), 1),
    in_channels: v.optional(v.pipe(v.number(), v.integer(), v.minValue(4), v.multipleOf(PATCH * PATCH)), 64),
    out_channels: v.optional(v.nullable(v.number()), null),
    num_layers: count(19),
    num_single_layers: count(38),
    attention_head_dim: count(128),
    num_attention_heads: count(24),
    joint_attention_dim: count(4096),
    pooled_projection_dim: count(768),
    guidance_embeds: flag(false),
    axes_dims_rope: v.optional(v.pipe(v.array(v.number()), v.length(3)), () => [16, 56, 56]),
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

/** Channels of the latents; a token holds those of a whole patch. */
export const channelsOf = ({ in_channels }: Config): number => in_channels / (PATCH * PATCH);

/** Angles of the text's tokens, all at the origin, and of the picture's. */
export function angles({ axes_dims_rope }: Config, text: number, height: number, width: number): RotaryTables {
  const [rows, columns] = [height / PATCH, width / PATCH];
  const ids = Array.from({ length: text }, () => [0, 0, 0]);
  for (let token = 0; token < rows * columns; token++) {
    ids.push([0, Math.floor(token / columns), token % columns]);
  }
  return rotaryTables(ids, axes_dims_rope, THETA, 'f64');
}

/** @param timestep from 1000, noise, to 0; rounded like the pipeline's own, which runs from 1 to 0 */
export function timeProjection(timestep: number): Float32Array<ArrayBuffer> {
  return timestepWaves(Math.fround(Math.fround(timestep / 1000) * 1000), WAVES);
}

/** For networks that take the guidance scale as an input. */
export function guidanceProjection(scale: number): Float32Array<ArrayBuffer> {
  return timestepWaves(Math.fround(Math.fround(scale) * 1000), WAVES);
}

export interface Options extends GraphOptions {
  /** Tokens of the prompt, padding included. */
  text?: number;
}

/**
 * Inputs `sample` [1, channels, height, width], `time_proj` [1, 256], `guidance_proj` likewise where guidance is embedded, `prompt_embeds`
 * [1, text, joint_attention_dim], `pooled_projections` [1, pooled_projection_dim], `cos` and `sin` [all tokens, half a head]; output
 * `out_sample` like the sample: the velocity from picture to noise. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { num_attention_heads: heads, attention_head_dim: head, joint_attention_dim } = config;
  const { height, width, text = 512 } = options;
  const g = new LayerWriter(className, weights, options);
  const dim = heads * head;

  const sample = g.floats('sample', [1, channelsOf(config), height, width]);
  const squares = patches(g, 'patches', sample, PATCH);
  const embeds = g.reshape('prompt_embeds/tokens', g.floats('prompt_embeds', [1, text, joint_attention_dim]), [
    text,
    joint_attention_dim,
  ]);
  const turns = anglesInput(g, '', text + squares.dims[0], head / 2);
  const time = embedded(
    g,
    'time_text_embed',
    {
      timestep_embedder: g.floats('time_proj', [1, WAVES]),
      ...(config.guidance_embeds && { guidance_embedder: g.floats('guidance_proj', [1, WAVES]) }),
      text_embedder: g.floats('pooled_projections', [1, config.pooled_projection_dim]),
    },
    dim,
  );
  const modulation = (path: string, sets: number) =>
    modulations(g, path, g.linear(`${path}.linear`, time, 3 * sets * dim), dim, sets);
  const fed = (path: string, norm: string, ff: string, x: Value, own: Modulation) =>
    gated(
      g,
      `${path}.${ff}`,
      x,
      feedForward(g, `${path}.${ff}`, modulated(g, `${path}.${norm}`, x, own, EPSILON), INNER * dim),
      own,
    );

  let picture = g.linear('x_embedder', squares, dim);
  let words = g.linear('context_embedder', embeds, dim);
  for (let layer = 0; layer < config.num_layers; layer++) {
    g.cut();
    const path = `transformer_blocks.${layer}`;
    const ofPicture = modulation(`${path}.norm1`, 2);
    const ofWords = modulation(`${path}.norm1_context`, 2);
    const streams = {
      picture: modulated(g, `${path}.norm1`, picture, ofPicture[0], EPSILON),
      words: modulated(g, `${path}.norm1_context`, words, ofWords[0], EPSILON),
    };
    const mixed = jointAttention(g, `${path}.attn`, streams, { heads, turns, epsilon: EPSILON, biases: true });
    picture = gated(g, `${path}.attn/picture`, picture, mixed.picture, ofPicture[0]);
    words = gated(g, `${path}.attn/words`, words, mixed.words, ofWords[0]);
    picture = fed(path, 'norm2', 'ff', picture, ofPicture[1]);
    words = fed(path, 'norm2_context', 'ff_context', words, ofWords[1]);
  }
  g.cut();
  let stream = g.concat('stream', [words, picture], 0);
  for (let layer = 0; layer < config.num_single_layers; layer++) {
    g.cut();
    const path = `single_transformer_blocks.${layer}`;
    const [own] = modulation(`${path}.norm`, 1);
    const normal = modulated(g, `${path}.norm`, stream, own, EPSILON);
    stream = gated(g, path, stream, parallel(g, path, normal, heads, turns), own);
  }
  g.cut();
  const [, result] = g.split('stream/parts', stream, [text, squares.dims[0]], 0);
  const last = continuousNorm(g, 'norm_out', result, time, EPSILON);
  const output = g.linear('proj_out', last, config.in_channels);
  g.output('out_sample', unpatched(g, 'out_sample/picture', output, sample, PATCH, 'first'));
  return g.graph();
}

/** FluxSingleTransformerBlock: attention and feed-forward in parallel, into one projection. */
function parallel(g: LayerWriter, path: string, x: Value, heads: number, turns: Angles): Value {
  const [, dim] = x.dims as [number, number];
  const project = (part: 'q' | 'k' | 'v') => g.linear(`${path}.attn.to_${part}`, x, dim);
  const turned = (part: 'q' | 'k') =>
    g.rotary(
      `${path}.attn/${part}/turned`,
      g.headNorm(`${path}.attn.norm_${part}`, project(part), heads, EPSILON),
      turns,
      'neighbours',
    );
  const mixed = g.attention(`${path}.attn`, turned('q'), turned('k'), project('v'), heads);
  const inner = g.tanhGelu(`${path}.act_mlp`, g.linear(`${path}.proj_mlp`, x, INNER * dim));
  return g.linear(`${path}.proj_out`, g.concat(`${path}/joined`, [mixed, inner], 1), dim);
}
