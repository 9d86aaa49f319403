/**
 * The transformer of FLUX.3: blocks in which the words, the picture and the reference pictures each see only themselves, then blocks for all
 * of them together. Words and reference pictures are modulated as if they were free of noise.
 * Reference: diffusers/models/transformers/transformer_flux3.py
 */
import * as v from 'valibot';
import { count, flag, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import { continuousNorm, gated, modulated, modulations, type Modulation } from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, timestepWaves, type Extent, type RotaryTables } from './rotary.ts';

export const className = 'Flux3Transformer2DModel';

export const configSchema = v.pipe(
  v.object({
    in_channels: count(128),
    cond_in_channels: count(128),
    num_layers: count(5),
    num_single_layers: count(28),
    attention_head_dim: count(128),
    num_attention_heads: count(24),
    joint_attention_dim: count(20480),
    timestep_channels: count(256),
    mlp_ratio: real(3),
    axes_dims_rope: v.optional(v.pipe(v.array(v.number()), v.length(4)), () => [32, 32, 32, 32]),
    rope_theta: real(10_000),
    eps: real(1e-6),
    /** Whether it was distilled to few steps and is told where each of them leads. */
    flow_map: flag(false),
  }),
  v.check(
    ({ in_channels, cond_in_channels }) => in_channels === cond_in_channels,
    'its cond_in_channels are others than its in_channels',
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

/** How far apart tokens of pictures stand; the pipeline scales their rows and columns by it. */
const APART = 0.5;

/** Angles of the text's tokens, the picture's, and each reference picture's; these are told apart on the axis along which text advances. */
export function angles(
  { axes_dims_rope, rope_theta }: Config,
  text: number,
  picture: Extent,
  shown: readonly Extent[],
): RotaryTables {
  const ids = Array.from({ length: text }, (_, token) => [0, 0, 0, token]);
  [picture, ...shown].forEach(({ height, width }, at) => {
    for (let token = 0; token < height * width; token++) {
      ids.push([0, APART * Math.floor(token / width), APART * (token % width), -at]);
    }
  });
  return rotaryTables(ids, axes_dims_rope, rope_theta, 'f64');
}

/**
 * The picture's time and that of what is free of noise, below each other: [2, timestep_channels].
 * @param timestep from 1000, noise, to 0
 */
export function timeProjection(config: Config, timestep: number): Float32Array<ArrayBuffer> {
  const both = new Float32Array(2 * config.timestep_channels);
  both.set(targetProjection(config, timestep));
  both.set(targetProjection(config, 0), config.timestep_channels);
  return both;
}

/** @param timestep that a step leads to, from 1000 to 0 */
export function targetProjection({ timestep_channels }: Config, timestep: number): Float32Array<ArrayBuffer> {
  return timestepWaves(timestep, timestep_channels);
}

/** The bias on the scores of the text's tokens, [1, 1, 1, text], of which only the first `kept` are there. */
export function textMask(text: number, kept: number): Float32Array<ArrayBuffer> {
  return new Float32Array(text).fill(-60_000, kept);
}

export interface Options extends GraphOptions {
  /** Tokens of the prompt. */
  text?: number;
  /** Whether prompts may be shorter, given by an input `mask`, see {@link textMask}. */
  masked?: boolean;
  /** The reference pictures shown to the network. */
  shown?: readonly Extent[];
}

/** Tokens that attend to one another in the first blocks. */
interface Stream {
  x: Value;
  /** `image`, `image_cond` or `txt`. */
  mode: string;
  /** Where its blocks are. */
  path: string;
  turns: Angles;
  bias?: Value | undefined;
}

/**
 * Inputs `sample` [1, in_channels, height, width], `time_proj` [2, timestep_channels] and, for a flow map, `target_proj`
 * [1, timestep_channels], `prompt_embeds` [1, text, joint_attention_dim], `cos` and `sin` [all tokens, half a head], perhaps `mask`, and, for
 * each reference picture, `shown_<n>` shaped like the sample; output `out_sample` like the sample: the velocity from picture to noise. All
 * float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { in_channels: channels, num_attention_heads: heads, attention_head_dim: head, eps } = config;
  const { height, width, text = 80, masked = false, shown = [] } = options;
  const g = new LayerWriter(className, weights, options);
  const dim = heads * head;
  const own = height * width;

  const sample = g.floats('sample', [1, channels, height, width]);
  const tokensOf = (one: Value) => g.tokens(`${one.name}/tokens`, one);
  const others = shown.map((one, k) => tokensOf(g.floats(`shown_${k}`, [1, channels, one.height, one.width])));
  const reference = others.length > 1 ? g.concat('shown', others, 0) : others.at(0);
  const embeds = g.reshape('prompt_embeds/tokens', g.floats('prompt_embeds', [1, text, config.joint_attention_dim]), [
    text,
    config.joint_attention_dim,
  ]);
  const sizes = [text, own, ...(reference ? [reference.dims[0]] : [])];
  const all = sizes.reduce((sum, size) => sum + size, 0);
  const turns = anglesInput(g, '', all, head / 2);
  const [cos, sin] = [g.split('cos/parts', turns.cos, sizes, 0), g.split('sin/parts', turns.sin, sizes, 0)];
  const mask = masked ? g.floats('mask', [1, 1, 1, text]) : undefined;

  const embedded = (path: string, waves: Value) =>
    plain(g, `${path}.linear_2`, g.silu(`${path}.act`, plain(g, `${path}.linear_1`, waves, dim)), dim);
  const moments = embedded('timestep_embedder', g.floats('time_proj', [2, config.timestep_channels]));
  const leading = config.flow_map
    ? g.add(
        'time_and_target',
        moments,
        embedded('target_timestep_embedder', g.floats('target_proj', [1, config.timestep_channels])),
      )
    : moments;
  const [now, clean] = g.split('times', g.silu('time', leading), [1, 1], 0);
  const modulation = (stage: 'early' | 'single', mode: string): Modulation => {
    const path = `${stage}_stream_modulations.${mode}`;
    return modulations(g, path, plain(g, `${path}.linear`, mode === 'image' ? now : clean, 3 * dim), dim, 1)[0];
  };

  const embed = (mode: string, x: Value) => plain(g, `x_embedders.${mode}`, x, dim);
  const streams: Stream[] = [
    {
      x: plain(g, 'context_embedder', embeds, dim),
      mode: 'txt',
      path: 'txt_mode_blocks',
      turns: { cos: cos[0], sin: sin[0] },
      bias: mask && g.expand('mask/text', mask, [1, 1, text, text]),
    },
    {
      x: embed('image', tokensOf(sample)),
      mode: 'image',
      path: 'mode_blocks.image',
      turns: { cos: cos[1], sin: sin[1] },
    },
    ...(reference
      ? [
          {
            x: embed('image_cond', reference),
            mode: 'image_cond',
            path: 'mode_blocks.image_cond',
            turns: { cos: cos[2], sin: sin[2] },
          },
        ]
      : []),
  ];
  const early = streams.map(({ mode }) => modulation('early', mode));
  const late = streams.map(({ mode }) => modulation('single', mode));
  let parts = streams.map(({ x }) => x);
  for (let layer = 0; layer < config.num_layers; layer++) {
    g.cut();
    parts = streams.map(({ path: root, turns: ownTurns, bias }, k) => {
      const path = `${root}.${layer}`;
      const normal = modulated(g, `${path}.norm`, parts[k], early[k], eps);
      return gated(g, path, parts[k], parallel(g, path, normal, config, ownTurns, bias), early[k]);
    });
  }
  g.cut();
  const bias =
    mask && g.expand('mask/rows', g.concat('mask/all', [mask, g.fill(0, [1, 1, 1, all - text])], 3), [1, 1, all, all]);
  for (let layer = 0; layer < config.num_single_layers; layer++) {
    g.cut();
    const path = `single_transformer_blocks.${layer}`;
    const normal = parts.map((x, k) => modulated(g, `${path}.norm/${streams[k].mode}`, x, late[k], eps));
    const changes = g.split(
      `${path}/parts`,
      parallel(g, path, g.concat(`${path}/joined`, normal, 0), config, turns, bias),
      sizes,
      0,
    );
    parts = parts.map((x, k) => gated(g, `${path}/${streams[k].mode}`, x, changes[k], late[k]));
  }

  g.cut();
  const last = continuousNorm(g, 'norm_out', parts[1], now, eps, { bias: false });
  g.output('out_sample', g.untokens('out_sample/picture', plain(g, 'proj_out', last, channels), sample));
  return g.graph();
}

/** The sum of attention and feed-forward of the same tokens. */
function parallel(g: LayerWriter, path: string, x: Value, config: Config, turns: Angles, bias?: Value): Value {
  const { num_attention_heads: heads, eps } = config;
  const [, dim] = x.dims as [number, number];
  const [q, k, value] = ['q', 'k', 'v'].map((name) => plain(g, `${path}.attn.to_${name}`, x, dim));
  const turned = (part: 'q' | 'k', each: Value) =>
    g.rotary(
      `${path}.attn/${part}/turned`,
      g.headNorm(`${path}.attn.norm_${part}`, each, heads, eps),
      turns,
      'neighbours',
    );
  const mixed = g.attention(`${path}.attn`, turned('q', q), turned('k', k), value, heads, bias ? { bias } : {});
  const seen = plain(g, `${path}.attn.to_out.0`, mixed, dim);

  const inner = Math.floor(dim * config.mlp_ratio);
  const [gate, up] = g.split(`${path}.ff/parts`, plain(g, `${path}.ff.linear_in`, x, 2 * inner), [inner, inner], 1);
  const product = g.binary(`${path}.ff/swiglu`, 'Mul', g.silu(`${path}.ff/silu`, gate), up);
  return g.add(`${path}/both`, seen, plain(g, `${path}.ff.linear_out`, product, dim));
}

function plain(g: LayerWriter, path: string, x: Value, out: number): Value {
  return g.linear(path, x, out, { bias: false });
}
