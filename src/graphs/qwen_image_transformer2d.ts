/**
 * The transformer of Qwen-Image, Qwen-Image-Edit and Qwen-Image-Layered: blocks with a stream of their own for text and picture, which meet in attention.
 * Reference: diffusers/models/transformers/transformer_qwenimage.py
 */
import * as v from 'valibot';
import { count, flag, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { jointAttention } from './joint_attention.ts';
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
import { anglesInput, rotaryTables, timestepWaves, type RotaryTables } from './rotary.ts';

export const className = 'QwenImageTransformer2DModel';

export const configSchema = v.pipe(
  v.object({
    patch_size: v.optional(v.literal(2), 2),
    in_channels: count(64),
    out_channels: v.optional(v.nullable(v.number()), 16),
    num_layers: count(60),
    attention_head_dim: count(128),
    num_attention_heads: count(24),
    joint_attention_dim: count(3584),
    /** diffusers' transformer has no embedder for it. */
    guidance_embeds: v.optional(v.literal(false)),
    axes_dims_rope: v.optional(v.pipe(v.array(v.number()), v.length(3)), () => [16, 56, 56]),
    /** Whether pictures that are shown are told to the network as such: by timestep 0. */
    zero_cond_t: flag(false),
    /** Whether the time is told what kind of pictures are made, by a row that is added to it. */
    use_additional_t_cond: flag(false),
    /** Whether the pictures are layers of one another, of which the one that is shown stands before the first. */
    use_layer3d_rope: flag(false),
  }),
  v.check(
    ({ in_channels, out_channels }) => in_channels === PATCH * PATCH * (out_channels ?? in_channels),
    'its out_channels do not fit its in_channels',
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

/** Latents per side of a token. */
export const PATCH = 2;
const THETA = 10_000;
const WAVES = 256;
const EPSILON = 1e-6;
const INNER = 4;
/** Low enough that a score becomes 0. */
const HIDDEN = -60_000;
/** Rows of what is added to the time; the first is for pictures as all are made: the authors' pipeline knows no other. */
const KINDS = 2;

export interface Extent {
  /** In latents. */
  height: number;
  width: number;
}

/** Channels of the latents; a token holds those of a whole patch. */
export const channelsOf = ({ in_channels }: Config): number => in_channels / (PATCH * PATCH);

/**
 * Angles of the text's tokens, the picture's, and each reference picture's. Pictures lie around the origin, one
 * behind the other; the text goes on diagonally where the largest of them, or the row of layers, ends.
 */
export function angles(
  { axes_dims_rope, use_layer3d_rope: areLayers }: Config,
  text: number,
  pictures: readonly Extent[],
): RotaryTables {
  const grids = pictures.map(({ height, width }) => [height / PATCH, width / PATCH] as const);
  const layers = areLayers ? pictures.length - 1 : 0;
  const first = Math.max(layers, ...grids.flat().map((side) => Math.floor(side / 2)));
  const ids = Array.from({ length: text }, (_, token) => [first + token, first + token, first + token]);
  grids.forEach(([rows, columns], at) => {
    for (let token = 0; token < rows * columns; token++) {
      const [row, column] = [Math.floor(token / columns), token % columns];
      ids.push([areLayers && at === layers ? -1 : at, row - Math.ceil(rows / 2), column - Math.ceil(columns / 2)]);
    }
  });
  return rotaryTables(ids, axes_dims_rope, THETA);
}

/** What is added to the scores, [1, 1, 1, all tokens]: words are `kept` of `text` tokens, followed by the pictures'. */
export function wordsMask(kept: number, text: number, pictures: number): Float32Array<ArrayBuffer> {
  return new Float32Array(text + pictures).fill(HIDDEN, kept, text);
}

/** [2, 256]: of the picture, and of pictures that are shown. @param timestep from 1000, noise, to 0 */
export function timeProjection(timestep: number): Float32Array<ArrayBuffer> {
  const times = new Float32Array(2 * WAVES);
  // Rounded as the pipeline hands it on, from 1 to 0.
  times.set(timestepWaves(Math.fround(Math.fround(timestep / 1000) * 1000), WAVES));
  times.set(timestepWaves(0, WAVES), WAVES);
  return times;
}

export interface Options extends GraphOptions {
  /** Tokens of the prompt, padding included. */
  text?: number;
  /** The reference pictures shown to the network. */
  shown?: readonly Extent[];
}

/**
 * Inputs `sample` [1, channels, height, width], `time_proj` [2, 256], `prompt_embeds` [1, text, joint_attention_dim], `mask` [1, 1, 1, all
 * tokens], `cos` and `sin` [all tokens, half a head] and, for each reference picture, `shown_<n>` shaped like the sample; output
 * `out_sample` like the sample: the velocity from picture to noise. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { num_attention_heads: heads, attention_head_dim: head, joint_attention_dim, zero_cond_t } = config;
  const { height, width, text = 512, shown = [] } = options;
  const g = new LayerWriter(className, weights, options);
  const dim = heads * head;
  const channels = channelsOf(config);

  const sample = g.floats('sample', [1, channels, height, width]);
  const given = shown.map((one, k) => g.floats(`shown_${k}`, [1, channels, one.height, one.width]));
  const all = [sample, ...given].map((one) => patches(g, `${one.name}/patches`, one, PATCH));
  const [own] = all[0].dims;
  const squares = all.length === 1 ? all[0] : g.concat('pictures', all, 0);
  const rest = squares.dims[0] - own;
  const tokens = text + squares.dims[0];
  const embeds = g.reshape('prompt_embeds/tokens', g.floats('prompt_embeds', [1, text, joint_attention_dim]), [
    text,
    joint_attention_dim,
  ]);
  const turns = anglesInput(g, '', tokens, head / 2);
  const mask = g.expand('mask/rows', g.floats('mask', [1, 1, 1, tokens]), [1, 1, tokens, tokens]);

  const times = g.split('time_proj/each', g.floats('time_proj', [2, WAVES]), [1, 1], 0);
  const kinds = 'time_text_embed.addition_t_embedding';
  const kind = config.use_additional_t_cond
    ? g.firstOf(`${kinds}/first`, g.weight(`${kinds}.weight`, [KINDS, dim]), 1)
    : undefined;
  const embeddedTime = (at: 0 | 1) => embedded(g, 'time_text_embed', { timestep_embedder: times[at] }, dim, kind);
  const time = embeddedTime(0);
  const isTold = zero_cond_t && rest > 0;
  const clear = isTold ? embeddedTime(1) : null;

  const changed = (path: string, state: Value) =>
    modulations(g, path, g.linear(`${path}.1`, state, 6 * dim), dim, 2) as [Modulation, Modulation];
  /** Of the picture's tokens, those that are shown may be modulated by a time of their own. */
  const parts = (path: string, x: Value) => (clear ? g.split(path, x, [own, rest], 0) : [x]);
  const whole = (path: string, values: readonly Value[]) =>
    values.length === 1 ? values[0] : g.concat(path, values, 0);

  let picture = g.linear('img_in', squares, dim);
  let words = g.linear('txt_in', g.rmsNorm('txt_norm', embeds, EPSILON), dim);
  for (let layer = 0; layer < config.num_layers; layer++) {
    g.cut();
    const path = `transformer_blocks.${layer}`;
    const ofPicture = [time, ...(clear ? [clear] : [])].map((state) => changed(`${path}.img_mod`, state));
    const ofWords = changed(`${path}.txt_mod`, time);
    const normal = (name: string, x: Value, set: 0 | 1) =>
      whole(
        `${path}.${name}/whole`,
        parts(`${path}.${name}/parts`, x).map((part, i) =>
          modulated(g, `${path}.${name}`, part, ofPicture[i][set], EPSILON),
        ),
      );
    const added = (name: string, x: Value, change: Value, set: 0 | 1) => {
      const changes = parts(`${name}/changes`, change);
      return whole(
        `${name}/whole`,
        parts(`${name}/parts`, x).map((part, i) => gated(g, name, part, changes[i], ofPicture[i][set])),
      );
    };
    const streams = {
      picture: normal('img_norm1', picture, 0),
      words: modulated(g, `${path}.txt_norm1`, words, ofWords[0], EPSILON),
    };
    const mixed = jointAttention(g, `${path}.attn`, streams, { heads, turns, epsilon: EPSILON, biases: true, mask });
    picture = added(`${path}.attn/picture`, picture, mixed.picture, 0);
    words = gated(g, `${path}.attn/words`, words, mixed.words, ofWords[0]);
    picture = added(
      `${path}.img_mlp`,
      picture,
      feedForward(g, `${path}.img_mlp`, normal('img_norm2', picture, 1), INNER * dim),
      1,
    );
    const inner = modulated(g, `${path}.txt_norm2`, words, ofWords[1], EPSILON);
    words = gated(g, `${path}.txt_mlp`, words, feedForward(g, `${path}.txt_mlp`, inner, INNER * dim), ofWords[1]);
  }

  g.cut();
  const last = continuousNorm(g, 'norm_out', g.firstOf('picture/own', picture, own), time, EPSILON);
  const output = g.linear('proj_out', last, config.in_channels);
  g.output('out_sample', unpatched(g, 'out_sample/picture', output, sample, PATCH, 'first'));
  return g.graph();
}
