/**
 * The transformer of Stable Diffusion 3 and 3.5 (MMDiT): separate streams for picture and text, joined in attention.
 * Reference: diffusers/models/transformers/transformer_sd3.py
 */
import * as v from 'valibot';
import { assert } from '../core/errors.ts';
import { count, only, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
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
import { timestepWaves } from './rotary.ts';

export const className = 'SD3Transformer2DModel';

/** Latents per side of a token. */
export const PATCH = 2;
const WAVES = 256;
const EPSILON = 1e-6;
/** A feed-forward layer's width, as a multiple of the stream's. */
const INNER = 4;
/** The position table, whose rows are read on the processor: it covers pictures far larger than those made. */
export const POSITIONS = 'pos_embed.pos_embed';

export const configSchema = v.pipe(
  v.object({
    patch_size: v.optional(v.literal(PATCH), PATCH),
    sample_size: count(128),
    in_channels: count(16),
    out_channels: v.optional(v.nullable(v.number()), 16),
    num_layers: count(18),
    attention_head_dim: count(64),
    num_attention_heads: count(18),
    joint_attention_dim: count(4096),
    caption_projection_dim: count(1152),
    pooled_projection_dim: count(2048),
    pos_embed_max_size: count(96),
    dual_attention_layers: v.optional(v.array(v.number()), () => []),
    qk_norm: v.optional(only(['rms_norm', 'none'], 'none'), 'none'),
  }),
  v.check(
    ({ in_channels, out_channels }) => out_channels === null || out_channels === in_channels,
    'its out_channels are others than its in_channels',
  ),
  v.check(
    ({ attention_head_dim, num_attention_heads, caption_projection_dim }) =>
      attention_head_dim * num_attention_heads === caption_projection_dim,
    'its heads do not add up to its caption_projection_dim',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** @param timestep from 1000, noise, to 0 */
export function timeProjection(timestep: number): Float32Array<ArrayBuffer> {
  return timestepWaves(timestep, WAVES);
}

/** The rows of the position table for a picture of this size in latents, centred in the table. */
export function positionRows({ pos_embed_max_size: side }: Config, height: number, width: number): number[] {
  const [rows, columns] = [height / PATCH, width / PATCH];
  assert(rows <= side && columns <= side, 'the picture lies on the table of positions');
  const [top, left] = [Math.floor((side - rows) / 2), Math.floor((side - columns) / 2)];
  return Array.from(
    { length: rows * columns },
    (_, token) => (top + Math.floor(token / columns)) * side + left + (token % columns),
  );
}

export interface Options extends GraphOptions {
  /** Tokens of the prompt, padding included. */
  text?: number;
  /** Whether blocks can be skipped, by an input `keep` [num_layers] of ones and zeros. */
  skips?: boolean;
}

/**
 * Inputs `sample` [1, in_channels, height, width], `time_proj` [1, 256], `prompt_embeds` [1, text, joint_attention_dim],
 * `pooled_projections` [1, pooled_projection_dim], `positions` [tokens, dim] and perhaps `keep`; output `out_sample` like the sample: the
 * velocity from picture to noise. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { in_channels: channels, num_layers: layers, joint_attention_dim, caption_projection_dim: dim } = config;
  const { height, width, text = 333, skips = false } = options;
  const g = new LayerWriter(className, weights, options);

  const sample = g.floats('sample', [1, channels, height, width]);
  const squares = patches(g, 'patches', sample, PATCH);
  const embeds = g.reshape('prompt_embeds/tokens', g.floats('prompt_embeds', [1, text, joint_attention_dim]), [
    text,
    joint_attention_dim,
  ]);
  const time = embedded(
    g,
    'time_text_embed',
    {
      timestep_embedder: g.floats('time_proj', [1, WAVES]),
      text_embedder: g.floats('pooled_projections', [1, config.pooled_projection_dim]),
    },
    dim,
  );
  const positions = g.floats('positions', [squares.dims[0], dim]);
  const ones = Array.from({ length: layers }, () => 1);
  const keep = skips ? g.split('keep/parts', g.floats('keep', [layers]), ones, 0) : [];

  const streams: Streams = {
    picture: g.add('pos_embed', g.linear('pos_embed.proj', squares, dim), positions),
    words: g.linear('context_embedder', embeds, dim),
  };
  for (let layer = 0; layer < layers; layer++) {
    g.cut();
    const kind = { isLast: layer === layers - 1, isDual: config.dual_attention_layers.includes(layer) };
    block(g, `transformer_blocks.${layer}`, streams, time, config, { ...kind, keep: keep.at(layer) });
  }
  g.cut();
  const last = continuousNorm(g, 'norm_out', streams.picture, time, EPSILON);
  const output = g.linear('proj_out', last, PATCH * PATCH * channels);
  g.output('out_sample', unpatched(g, 'out_sample/picture', output, sample, PATCH, 'last'));
  return g.graph();
}

interface Streams {
  picture: Value;
  words: Value;
}

interface Kind {
  /** The text stream ends after this block. */
  isLast: boolean;
  /** The picture also attends to itself alone. */
  isDual: boolean;
  /** [1]: 1, or 0 for a skipped block. */
  keep: Value | undefined;
}

/** JointTransformerBlock. */
function block(
  g: LayerWriter,
  path: string,
  streams: Streams,
  time: Value,
  config: Config,
  { isLast, isDual, keep }: Kind,
) {
  const { caption_projection_dim: dim } = config;
  const modulation = (name: string, sets: number) =>
    modulations(g, `${path}.${name}`, g.linear(`${path}.${name}.linear`, time, 3 * sets * dim), dim, sets);
  const added = (name: string, x: Value, change: Value, { gate }: Modulation) =>
    gated(g, `${path}/${name}`, x, change, {
      gate: keep ? g.binary(`${path}/${name}/kept`, 'Mul', gate, keep) : gate,
    });
  const fed = (norm: string, ff: string, x: Value, own: Modulation) =>
    added(ff, x, feedForward(g, `${path}.${ff}`, modulated(g, `${path}.${norm}`, x, own, EPSILON), INNER * dim), own);

  const ofPicture = modulation('norm1', isDual ? 3 : 2);
  const ofWords = isLast ? null : modulation('norm1_context', 2);
  const { picture } = streams;
  const normal = modulated(g, `${path}.norm1`, picture, ofPicture[0], EPSILON);
  const words = ofWords
    ? modulated(g, `${path}.norm1_context`, streams.words, ofWords[0], EPSILON)
    : continuousNorm(g, `${path}.norm1_context`, streams.words, time, EPSILON);
  const mixed = attention(g, `${path}.attn`, config, normal, words);

  streams.picture = added('attn', picture, g.linear(`${path}.attn.to_out.0`, mixed[0], dim), ofPicture[0]);
  if (isDual) {
    const [own] = attention(
      g,
      `${path}.attn2`,
      config,
      modulated(g, `${path}.norm1/2`, picture, ofPicture[2], EPSILON),
    );
    streams.picture = added('attn2', streams.picture, g.linear(`${path}.attn2.to_out.0`, own, dim), ofPicture[2]);
  }
  streams.picture = fed('norm2', 'ff', streams.picture, ofPicture[1]);
  if (ofWords) {
    const change = g.linear(`${path}.attn.to_add_out`, mixed[1], dim);
    streams.words = added('attn/words', streams.words, change, ofWords[0]);
    streams.words = fed('norm2_context', 'ff_context', streams.words, ofWords[1]);
  }
}

/** Attention over the picture's tokens alone or together with the text's; returns each stream's part. */
function attention(g: LayerWriter, path: string, config: Config, picture: Value, words?: Value): Value[] {
  const { num_attention_heads: heads, qk_norm, caption_projection_dim: dim } = config;
  const normal = (name: string, x: Value) =>
    qk_norm === 'none' ? x : g.headNorm(`${path}.${name}`, x, heads, EPSILON);
  const joined = (part: 'q' | 'k' | 'v') => {
    const own = g.linear(`${path}.to_${part}`, picture, dim);
    const added = words ? [g.linear(`${path}.add_${part}_proj`, words, dim)] : [];
    const all =
      part === 'v'
        ? [own, ...added]
        : [normal(`norm_${part}`, own), ...added.map((x) => normal(`norm_added_${part}`, x))];
    return all.length === 1 ? all[0] : g.concat(`${path}/${part}`, all, 0);
  };
  const mixed = g.attention(path, joined('q'), joined('k'), joined('v'), heads);
  return words ? g.split(`${path}/parts`, mixed, [picture.dims[0], words.dims[0]], 0) : [mixed];
}
