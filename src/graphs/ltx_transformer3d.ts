/**
 * The transformer of LTX-Video: one stream of a video's tokens, one for each latent, which look at each other and then at the text.
 * Reference: diffusers/models/transformers/transformer_ltx.py
 */
import * as v from 'valibot';
import { count, flag, only, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import { feedForward, gatedInGroups, inGroups, modulationSets, oneMore, scaledAndShifted } from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, timestepWaves, type RotaryTables } from './rotary.ts';

export const className = 'LTXVideoTransformer3DModel';

const THETA = 10_000;
/** Waves that say a time. */
export const WAVES = 256;
/** Of norms of queries and keys, and of the last norm. */
const ATTENTION_EPSILON = 1e-5;
const LAST_EPSILON = 1e-6;
/** What places are a share of, in seconds and in pixels. */
const [BASE_SECONDS, BASE_PIXELS] = [20, 2048];

export const configSchema = v.pipe(
  v.object({
    in_channels: count(128),
    out_channels: v.optional(v.nullable(v.number()), 128),
    patch_size: v.optional(v.literal(1), 1),
    patch_size_t: v.optional(v.literal(1), 1),
    num_attention_heads: count(32),
    attention_head_dim: count(64),
    cross_attention_dim: count(2048),
    num_layers: count(28),
    activation_fn: only(['gelu-approximate'], 'gelu-approximate'),
    qk_norm: only(['rms_norm_across_heads'], 'rms_norm_across_heads'),
    norm_elementwise_affine: v.optional(v.literal(false), false),
    norm_eps: real(1e-6),
    caption_channels: count(4096),
    attention_bias: flag(true),
    attention_out_bias: flag(true),
  }),
  v.check(
    ({ in_channels, out_channels }) => (out_channels ?? in_channels) === in_channels,
    'it gives others than the channels that it takes',
  ),
  v.check(
    ({ num_attention_heads, attention_head_dim, cross_attention_dim }) =>
      num_attention_heads * attention_head_dim === cross_attention_dim,
    'its heads do not add up to its cross_attention_dim',
  ),
  v.check(
    ({ cross_attention_dim }) => cross_attention_dim % 2 === 0 && cross_attention_dim >= 12,
    'its heads do not fit',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

export interface Extent {
  frames: number;
  /** Of one frame, in latents. */
  height: number;
  width: number;
}

/** Where latents are: the second of each frame, in single precision, and the pixels from one to the next in it. */
export interface Places {
  seconds: readonly number[];
  pixels: number;
}

/**
 * Angles of every latent by frame, row and column, over all heads together: [tokens, half the width]. Each step rounds to single precision, as
 * the reference computes them; the fastest turn thousands of times.
 */
export function angles(
  { cross_attention_dim: dim }: Config,
  { frames, height, width }: Extent,
  { seconds, pixels }: Places,
): RotaryTables {
  const f = Math.fround;
  const count = Math.floor(dim / 6);
  const speeds = exponents(count).map((exponent) => f(f(f(THETA ** exponent) * f(Math.PI)) / 2));
  const half = dim / 2;
  const still = (dim % 6) / 2;
  const tokens = frames * height * width;
  const cos = new Float32Array(tokens * half).fill(1);
  const sin = new Float32Array(tokens * half);
  const share = (place: number, base: number) => f(f(2 * f(f(place) / base)) - 1);
  for (let token = 0; token < tokens; token++) {
    const places = [
      share(seconds[Math.floor(token / (height * width))], BASE_SECONDS),
      share((Math.floor(token / width) % height) * pixels, BASE_PIXELS),
      share((token % width) * pixels, BASE_PIXELS),
    ];
    speeds.forEach((speed, n) => {
      places.forEach((place, axis) => {
        const angle = f(speed * place);
        const at = token * half + still + 3 * n + axis;
        cos[at] = Math.cos(angle);
        sin[at] = Math.sin(angle);
      });
    });
  }
  return { cos, sin };
}

/** From 0 to 1, as torch.linspace counts: from both ends, in single precision. */
function exponents(count: number): number[] {
  const f = Math.fround;
  const step = count > 1 ? f(1 / (count - 1)) : 0;
  return Array.from({ length: count }, (_, n) => (n < count / 2 ? f(step * n) : f(1 - f(step * (count - 1 - n)))));
}

/** @param timestep from 1000, noise, to 0 */
export function timeProjection(timestep: number): Float32Array<ArrayBuffer> {
  return timestepWaves(timestep, WAVES);
}

export interface Options extends GraphOptions {
  /** Frames of the latents; `height` and `width` are those of one frame. */
  frames?: number;
  /** Tokens of the prompt, padding included. */
  text?: number;
  /** Whether the first frame is given: it stands in place of the sample's, and is told a time of its own. */
  isBegun?: boolean;
  /** How many frames are given that are looked at beside those of the sample, and told that time, too; absent = none. */
  beside?: number;
}

/**
 * Inputs `sample` [1, in_channels, frames · height, width], `time_proj` [1, {@link WAVES}], `prompt_embeds` [1, text, caption_channels],
 * `mask` [1, 1, 1, text] added to the scores of the text's tokens, `cos` and `sin` [tokens, half the width]; where frames are given, they are
 * `condition` [1, in_channels, given · height, width], first those beside the sample, whose tokens come before its own, and `time_proj`
 * [2, {@link WAVES}] is of the given frames and of the rest; output `out_sample`, like the sample: the velocity from video to noise. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { cross_attention_dim: dim, in_channels: channels, caption_channels, norm_eps: epsilon } = config;
  const { frames = 1, height, width, text = 128, isBegun = false, beside = 0 } = options;
  const g = new LayerWriter(className, weights, options);

  const sample = g.floats('sample', [1, channels, frames * height, width]);
  const given = beside + (isBegun ? 1 : 0);
  const one = height * width;
  const tokens = (frames + beside) * one;
  let x = g.linear('proj_in', tokensOf(g, sample, given, options), dim);
  const turns = anglesInput(g, '', tokens, dim / 2);
  /** Tokens that are told the same time. */
  const groups = given > 0 ? [given * one, tokens - given * one] : [tokens];
  const embedder = 'time_embed.emb.timestep_embedder';
  const waves = g.floats('time_proj', [groups.length, WAVES]);
  const mid = g.silu(`${embedder}.act`, g.linear(`${embedder}.linear_1`, waves, dim));
  const time = g.linear(`${embedder}.linear_2`, mid, dim);
  const all = g.linear('time_embed.linear', g.silu('time_embed.silu', time), 6 * dim);
  const states = g.reshape('prompt_embeds/tokens', g.floats('prompt_embeds', [1, text, caption_channels]), [
    text,
    caption_channels,
  ]);
  const words = g.linear(
    'caption_projection.linear_2',
    g.tanhGelu('caption_projection.act_1', g.linear('caption_projection.linear_1', states, dim)),
    dim,
  );
  const mask = g.expand('mask/tokens', g.floats('mask', [1, 1, 1, text]), [1, 1, tokens, text]);

  for (let layer = 0; layer < config.num_layers; layer++) {
    const path = `transformer_blocks.${layer}`;
    const sets = modulationSets(g, path, all, 2);
    const first = sets.map(([set]) => set);
    const second = sets.map(([, set]) => set);
    const normal = inGroups(g, `${path}.norm1`, x, groups, (part, k, name) =>
      scaledAndShifted(g, name, g.plainRmsNorm(name, part, epsilon), first[k]),
    );
    x = gatedInGroups(
      g,
      `${path}.attn1`,
      x,
      attention(g, `${path}.attn1`, normal, normal, config, { turns }),
      groups,
      first,
    );
    x = g.add(`${path}.attn2/added`, x, attention(g, `${path}.attn2`, x, words, config, { mask }));
    const before = inGroups(g, `${path}.norm2`, x, groups, (part, k, name) =>
      scaledAndShifted(g, name, g.plainRmsNorm(name, part, epsilon), second[k]),
    );
    x = gatedInGroups(g, `${path}.ff`, x, feedForward(g, `${path}.ff`, before, 4 * dim), groups, second);
  }

  const table = g.weight('scale_shift_table', [1, 2 * dim]);
  const twice = g.concat('scale_shift_table/time', [time, time], 1);
  const each = g.split('scale_shift_table/times', g.add('scale_shift_table/sum', twice, table), ones(groups.length), 0);
  const ends = each.map((end, k) => {
    const [shift, scale] = g.split(`scale_shift_table/parts/${k}`, end, [dim, dim], 1);
    return { shift, scale: oneMore(g, `norm_out/scale/${k}`, scale) };
  });
  const last = inGroups(g, 'norm_out', x, groups, (part, k, name) =>
    scaledAndShifted(g, name, g.plainNorm(name, part, LAST_EPSILON), ends[k]),
  );
  const velocity = g.linear('proj_out', last, channels);
  const own = beside === 0 ? velocity : g.split('out_sample/own', velocity, [beside * one, frames * one], 0)[1];
  g.output('out_sample', g.untokens('out_sample/picture', own, sample));
  return g.graph();
}

/** The given frames, and those of the sample that are not given. */
function tokensOf(g: LayerWriter, sample: Value, given: number, { height, isBegun }: Options): Value {
  const [, channels, rows, width] = sample.dims;
  if (given === 0) {
    return g.tokens('sample/tokens', sample);
  }
  const condition = g.tokens('condition/tokens', g.floats('condition', [1, channels, given * height, width]));
  if (isBegun && rows === height) {
    return condition;
  }
  const rest = isBegun ? g.split('sample/frames', sample, [height, rows - height], 2)[1] : sample;
  return g.concat('sample/all', [condition, g.tokens('sample/tokens', rest)], 0);
}

/** @param seen what `x` looks at: itself, with angles, or the text, with a mask */
function attention(
  g: LayerWriter,
  path: string,
  x: Value,
  seen: Value,
  { num_attention_heads: heads, attention_bias: bias, attention_out_bias }: Config,
  { turns, mask }: { turns?: Angles; mask?: Value },
): Value {
  const [, dim] = x.dims as [number, number];
  const normed = (part: 'q' | 'k', from: Value) => {
    const normal = g.rmsNorm(
      `${path}.norm_${part}`,
      g.linear(`${path}.to_${part}`, from, dim, { bias }),
      ATTENTION_EPSILON,
    );
    return turns ? g.rotary(`${path}/${part}/turned`, normal, turns, 'neighbours') : normal;
  };
  const value = g.linear(`${path}.to_v`, seen, dim, { bias });
  const mixed = g.attention(path, normed('q', x), normed('k', seen), value, heads, mask ? { bias: mask } : {});
  return g.linear(`${path}.to_out.0`, mixed, dim, { bias: attention_out_bias });
}

function ones(length: number): number[] {
  return Array.from({ length }, () => 1);
}
