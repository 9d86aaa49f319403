/**
 * The transformer of Wan 2.1 and 2.2: one stream of a video's tokens, which look at each other and then at the text.
 * Its frames lie below each other, as one tall picture: patches are one frame deep, so they are those of that picture.
 * Reference: diffusers/models/transformers/transformer_wan.py
 */
import * as v from 'valibot';
import { count, flag, only, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import {
  feedForward,
  gatedInGroups,
  inGroups,
  modulated,
  modulationSets,
  oneMore,
  patches,
  unpatched,
} from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, timestepWaves, type RotaryTables } from './rotary.ts';

export const className = 'WanTransformer3DModel';

export const PATCH = 2;
const THETA = 10_000;

export const configSchema = v.pipe(
  v.object({
    patch_size: v.optional(v.tuple([v.literal(1), v.literal(PATCH), v.literal(PATCH)]), () => [1, PATCH, PATCH]),
    num_attention_heads: count(40),
    attention_head_dim: count(128),
    in_channels: count(16),
    out_channels: v.optional(v.nullable(v.number()), 16),
    text_dim: count(4096),
    freq_dim: count(256),
    ffn_dim: count(13824),
    num_layers: count(40),
    cross_attn_norm: flag(true),
    qk_norm: only(['rms_norm_across_heads'], 'rms_norm_across_heads'),
    eps: real(1e-6),
    image_dim: v.optional(v.nullable(count(1280)), null),
    added_kv_proj_dim: v.optional(v.nullable(count(5120)), null),
    pos_embed_seq_len: v.optional(v.nullable(count(514)), null),
    rope_max_seq_len: count(1024),
  }),
  v.check(({ attention_head_dim }) => attention_head_dim % 2 === 0, 'its attention_head_dim is odd'),
  v.check(
    ({ in_channels, out_channels }) => (out_channels ?? in_channels) <= in_channels,
    'it gives more channels than it takes',
  ),
  v.check(
    ({ image_dim, added_kv_proj_dim: added, num_attention_heads: heads, attention_head_dim: head }) =>
      image_dim === null ? added === null : added === heads * head,
    'its added_kv_proj_dim and image_dim do not fit',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Channels of the latents that it predicts. */
export function channelsOf({ in_channels, out_channels }: Config): number {
  return out_channels ?? in_channels;
}

export interface Extent {
  frames: number;
  /** Of one frame, in latents. */
  height: number;
  width: number;
}

/** Angles of every patch by frame, row and column. */
export function angles({ attention_head_dim: head }: Config, { frames, height, width }: Extent): RotaryTables {
  const side = 2 * Math.floor(head / 6);
  const [rows, columns] = [height / PATCH, width / PATCH];
  const ids = Array.from({ length: frames * rows * columns }, (_, token) => [
    Math.floor(token / (rows * columns)),
    Math.floor(token / columns) % rows,
    token % columns,
  ]);
  return rotaryTables(ids, [head - 2 * side, side, side], THETA, 'f64');
}

/** @param timestep from 1000, noise, to 0 */
export function timeProjection({ freq_dim }: Config, timestep: number): Float32Array<ArrayBuffer> {
  return timestepWaves(timestep, freq_dim);
}

export interface Options extends GraphOptions {
  /** Frames of the latents; `height` and `width` are those of one frame. */
  frames?: number;
  /** Tokens of the prompt, padding included. */
  text?: number;
  /** Parts of all pictures that it sees by CLIP; 0 where it sees none. */
  seen?: number;
  /** Whether the first frame is given: it stands in place of the sample's, and is told a time of its own. */
  isBegun?: boolean;
}

/** Channels that the transformer is shown beside the latents that it predicts. */
export function shownChannels(config: Config): number {
  return config.in_channels - channelsOf(config);
}

/**
 * Inputs `sample` [1, out_channels, frames · height, width], `time_proj` [1, freq_dim], `prompt_embeds` [1, text, text_dim],
 * `cos` and `sin` [tokens, half a head]; where it is shown more channels than it predicts, those are `condition`, like the sample; where the
 * first frame is given, that is `condition` [1, out_channels, height, width], and `time_proj` [2, freq_dim] is of that frame and of the rest; where it sees
 * pictures, `image_embeds` [1, seen, image_dim]; output `out_sample` [1, out_channels, frames · height, width]: the velocity from video to
 * noise. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { num_attention_heads: heads, attention_head_dim: head, text_dim, freq_dim, eps } = config;
  const { frames = 1, height, width, text = 512, seen: parts = 0 } = options;
  const g = new LayerWriter(className, weights, options);
  const dim = heads * head;
  const channels = channelsOf(config);
  const tall = [1, channels, frames * height, width];
  const times = options.isBegun ? 2 : 1;

  const sample = g.floats('sample', tall);
  const whole = withCondition(g, sample, config, options);
  let x = g.linear('patch_embedding', patches(g, 'sample/patches', whole, PATCH), dim);
  const turns = anglesInput(g, '', x.dims[0], head / 2);
  const first = x.dims[0] / frames;
  /** Tokens that are told the same time. */
  const groups = options.isBegun ? [first, x.dims[0] - first] : [x.dims[0]];
  const embedder = 'condition_embedder';
  const waves = g.floats('time_proj', [times, freq_dim]);
  const mid = g.silu(`${embedder}.time_embedder.act`, g.linear(`${embedder}.time_embedder.linear_1`, waves, dim));
  const time = g.linear(`${embedder}.time_embedder.linear_2`, mid, dim);
  const all = g.linear(`${embedder}.time_proj`, g.silu(`${embedder}.act_fn`, time), 6 * dim);
  const states = g.reshape('prompt_embeds/tokens', g.floats('prompt_embeds', [1, text, text_dim]), [text, text_dim]);
  const words = g.linear(
    `${embedder}.text_embedder.linear_2`,
    g.tanhGelu(`${embedder}.text_embedder.act`, g.linear(`${embedder}.text_embedder.linear_1`, states, dim)),
    dim,
  );
  const sights = config.image_dim === null ? null : seenTokens(g, `${embedder}.image_embedder`, config, parts);

  for (let layer = 0; layer < config.num_layers; layer++) {
    const path = `blocks.${layer}`;
    const sets = modulationSets(g, path, all, 2);
    const normal = inGroups(g, `${path}.norm1`, x, groups, (part, k, name) =>
      modulated(g, name, part, sets[k][0], eps),
    );
    const seen = attention(g, `${path}.attn1`, normal, normal, config, { turns });
    x = gatedInGroups(
      g,
      `${path}.attn1`,
      x,
      seen,
      groups,
      sets.map(([set]) => set),
    );
    const asking = config.cross_attn_norm ? g.layerNorm(`${path}.norm2`, x, eps) : x;
    x = g.add(`${path}.attn2/added`, x, attention(g, `${path}.attn2`, asking, words, config, { sights }));
    const before = inGroups(g, `${path}.norm3`, x, groups, (part, k, name) =>
      modulated(g, name, part, sets[k][1], eps),
    );
    const fed = feedForward(g, `${path}.ffn`, before, config.ffn_dim);
    x = gatedInGroups(
      g,
      `${path}.ffn`,
      x,
      fed,
      groups,
      sets.map(([, set]) => set),
    );
  }

  const ends = g
    .split(
      'scale_shift_table/times',
      lastModulation(g, time),
      groups.map(() => 1),
      0,
    )
    .map((end, k) => {
      const [shift, scale] = g.split(`scale_shift_table/parts/${k}`, end, [dim, dim], 1);
      return { shift, scale: oneMore(g, `norm_out/scale/${k}`, scale) };
    });
  const last = inGroups(g, 'norm_out', x, groups, (part, k, name) => modulated(g, name, part, ends[k], eps));
  const velocity = g.linear('proj_out', last, channels * PATCH * PATCH);
  g.output('out_sample', unpatched(g, 'out_sample/picture', velocity, sample, PATCH, 'last'));
  return g.graph();
}

/** What the transformer looks at: the sample, with what it is shown beside it or in place of the first frame. */
function withCondition(g: LayerWriter, sample: Value, config: Config, { height, isBegun }: Options): Value {
  const [, channels, rows, width] = sample.dims;
  const shown = shownChannels(config);
  if (shown > 0) {
    return g.concat('sample/all', [sample, g.floats('condition', [1, shown, rows, width])], 1);
  }
  if (!isBegun) {
    return sample;
  }
  const first = g.floats('condition', [1, channels, height, width]);
  if (rows === height) {
    return first;
  }
  const [, rest] = g.split('sample/frames', sample, [height, rows - height], 2);
  return g.concat('sample/begun', [first, rest], 2);
}

/** Shift and scale after the last block, [times, 2 · dim]: the time twice, on top of a table. */
function lastModulation(g: LayerWriter, time: Value): Value {
  const [, dim] = time.dims as [number, number];
  const twice = g.concat('scale_shift_table/time', [time, time], 1);
  return g.add('scale_shift_table/sum', twice, g.weight('scale_shift_table', [1, 2 * dim]));
}

/** Of the layer norms around what CLIP sees. */
const SIGHT_EPSILON = 1e-5;

/** What the transformer makes of the parts of pictures, [parts, dim]. */
function seenTokens(g: LayerWriter, path: string, config: Config, parts: number): Value {
  const { image_dim: width, pos_embed_seq_len: places, num_attention_heads: heads, attention_head_dim: head } = config;
  const dim = heads * head;
  const given = width ?? dim;
  const embeds = g.reshape('image_embeds/parts', g.floats('image_embeds', [1, parts, given]), [parts, given]);
  const placed =
    places === null ? embeds : g.add(`${path}.pos_embed`, embeds, g.weight(`${path}.pos_embed`, [places, given]));
  const normal = g.layerNorm(`${path}.norm1`, placed, SIGHT_EPSILON);
  const inner = g.unary(`${path}.ff.net.0`, 'Gelu', g.linear(`${path}.ff.net.0.proj`, normal, given));
  return g.layerNorm(`${path}.norm2`, g.linear(`${path}.ff.net.2`, inner, dim), SIGHT_EPSILON);
}

/**
 * @param seen what `x` looks at: itself, or the text, whose tokens have no places to turn by
 * @param sights what of pictures it looks at beside the text
 */
function attention(
  g: LayerWriter,
  path: string,
  x: Value,
  seen: Value,
  config: Config,
  { turns, sights }: { turns?: Angles; sights?: Value | null },
): Value {
  const { num_attention_heads: heads, eps } = config;
  const [, dim] = x.dims as [number, number];
  const normed = (part: 'q' | 'k', from: Value) => {
    const normal = g.rmsNorm(`${path}.norm_${part}`, g.linear(`${path}.to_${part}`, from, dim), eps);
    return turns ? g.rotary(`${path}/${part}/turned`, normal, turns, 'neighbours') : normal;
  };
  const asked = normed('q', x);
  const mixed = g.attention(path, asked, normed('k', seen), g.linear(`${path}.to_v`, seen, dim), heads);
  if (!sights) {
    return g.linear(`${path}.to_out.0`, mixed, dim);
  }
  const keys = g.rmsNorm(`${path}.norm_added_k`, g.linear(`${path}.add_k_proj`, sights, dim), eps);
  const ofPictures = g.attention(`${path}/pictures`, asked, keys, g.linear(`${path}.add_v_proj`, sights, dim), heads);
  return g.linear(`${path}.to_out.0`, g.add(`${path}/sum`, mixed, ofPictures), dim);
}
