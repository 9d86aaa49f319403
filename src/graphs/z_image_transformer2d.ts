/**
 * Z-Image's transformer: picture and text tokens in one stream.
 * Reference: diffusers/models/transformers/transformer_z_image.py, its basic mode (one picture, no SigLIP)
 */
import * as v from 'valibot';
import { count, parseNetworkConfig, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import { oneMore, unpatched } from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, timestepWaves, type RotaryTables } from './rotary.ts';

export const className = 'ZImageTransformer2DModel';

export const configSchema = v.pipe(
  v.object({
    all_patch_size: v.optional(v.tuple([v.literal(2)]), [2]),
    all_f_patch_size: v.optional(v.tuple([v.literal(1)]), [1]),
    in_channels: count(16),
    dim: count(3840),
    n_layers: count(30),
    n_refiner_layers: count(2),
    n_heads: count(30),
    n_kv_heads: count(30),
    norm_eps: real(1e-5),
    qk_norm: v.optional(v.literal(true), true),
    cap_feat_dim: count(2560),
    siglip_feat_dim: unused(),
    rope_theta: real(256),
    t_scale: real(1000),
    axes_dims: v.optional(v.tuple([v.number(), v.number(), v.number()]), [32, 48, 48]),
    axes_lens: v.optional(v.tuple([v.number(), v.number(), v.number()]), [1024, 512, 512]),
  }),
  v.check(
    ({ dim, n_heads, axes_dims }) => axes_dims.reduce((sum, each) => sum + each, 0) === dim / n_heads,
    'its axes_dims do not add up to the width of a head',
  ),
  v.check(({ axes_dims }) => axes_dims.every((width) => width % 2 === 0), 'one of its axes_dims is odd'),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Picture and text tokens are each padded to a multiple of this. */
const MULTIPLE = 32;
/** Latents per side of a token. */
export const PATCH = 2;
const WAVES = 256;
const MODULATION = 256;
const HEAD_NORM = 1e-5;
const FINAL_NORM = 1e-6;
const PART = '2-1';

const padded = (tokens: number) => Math.ceil(tokens / MULTIPLE) * MULTIPLE;

/** The length of the text's part of the stream. */
export const textLength = (tokens: number): number => padded(tokens);

export interface Size {
  /** In latents. */
  height: number;
  width: number;
  /** Of the prompt, without padding. */
  tokens: number;
  /** Length of the text's part of the stream, at least {@link textLength}; with guidance, the longer prompt's. */
  text: number;
}

/** Angles of the picture's and then of the text's tokens. */
export function angles({ axes_dims, rope_theta }: Config, { height, width, tokens, text }: Size): RotaryTables {
  const [rows, columns] = [height / PATCH, width / PATCH];
  const own = textLength(tokens);
  const ids: number[][] = [];
  for (let token = 0; token < padded(rows * columns); token++) {
    // Padding is at the origin.
    ids.push(token < rows * columns ? [own + 1, Math.floor(token / columns), token % columns] : [0, 0, 0]);
  }
  for (let token = 0; token < text; token++) {
    ids.push([token < own ? token + 1 : 0, 0, 0]);
  }
  return rotaryTables(ids, axes_dims, rope_theta);
}

/** Of the text's tokens alone, for {@link buildContext}. */
export function textAngles({ axes_dims, rope_theta }: Config, tokens: number): RotaryTables {
  const ids = Array.from({ length: textLength(tokens) }, (_, token) => [token + 1, 0, 0]);
  return rotaryTables(ids, axes_dims, rope_theta);
}

/** The bias on the scores of the stream's tokens, [1, 1, 1, tokens], for prompts shorter than their part. */
export function streamMask({ height, width, tokens, text }: Size): Float32Array<ArrayBuffer> {
  const picture = padded((height / PATCH) * (width / PATCH));
  return new Float32Array(picture + text).fill(-60_000, picture + textLength(tokens));
}

/** @param timestep from 1000, noise, to 0 */
export function timeProjection({ t_scale }: Config, timestep: number): Float32Array<ArrayBuffer> {
  return timestepWaves(((1000 - timestep) / 1000) * t_scale, WAVES);
}

/**
 * The part that depends on the prompt alone. Inputs `prompt_embeds` [1, tokens, cap_feat_dim], `cos` and `sin`
 * [{@link textLength}, half a head]; output `context` [1, {@link textLength}, dim].
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildContext(config: Config, weights: WeightIndex, options: GraphOptions & { tokens?: number }): Graph {
  const { dim, cap_feat_dim, norm_eps, n_refiner_layers } = config;
  const { tokens = MULTIPLE } = options;
  const length = textLength(tokens);
  const g = new LayerWriter(`${className} text`, weights, options);
  const turns = anglesInput(g, '', length, dim / config.n_heads / 2);
  const embeds = g.reshape('prompt_embeds/tokens', g.floats('prompt_embeds', [1, tokens, cap_feat_dim]), [
    tokens,
    cap_feat_dim,
  ]);
  let hidden = g.linear('cap_embedder.1', g.rmsNorm('cap_embedder.0', embeds, norm_eps), dim);
  hidden = pad(g, 'cap_pad_token', hidden, length);
  for (let layer = 0; layer < n_refiner_layers; layer++) {
    hidden = block(g, `context_refiner.${layer}`, hidden, config, { turns });
  }
  g.output('context', g.reshape('context/batch', hidden, [1, length, dim]));
  return g.graph();
}

export interface Options extends GraphOptions {
  /** Length of the text's part of the stream. */
  text?: number;
  /** Whether prompts may be shorter, given by an input `mask`, see {@link streamMask}. */
  masked?: boolean;
}

/**
 * Inputs `sample` [1, in_channels, height, width], `time_proj` [1, 256], `context` [1, text, dim], `cos`, `sin` and perhaps `mask`;
 * output `out_sample` like the sample: the velocity from picture to noise, whose sign is the opposite of the module's. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { dim, in_channels: channels, n_heads, n_layers, n_refiner_layers } = config;
  const { height, width, text = MULTIPLE, masked = false } = options;
  const g = new LayerWriter(className, weights, options);
  const [rows, columns] = [height / PATCH, width / PATCH];
  const [tokens, length] = [rows * columns, padded(rows * columns)];
  const part = PATCH * PATCH * channels;

  const sample = g.floats('sample', [1, channels, height, width]);
  const cells = g.reshape('patches/cells', sample, [channels, rows, PATCH, columns, PATCH]);
  const patches = g.reshape('patches', g.transpose('patches/transpose', cells, [1, 3, 2, 4, 0]), [tokens, part]);
  const context = g.reshape('context/tokens', g.floats('context', [1, text, dim]), [text, dim]);
  const all = anglesInput(g, '', length + text, dim / n_heads / 2);
  const own = { cos: g.firstOf('cos/picture', all.cos, length), sin: g.firstOf('sin/picture', all.sin, length) };
  const bias = masked
    ? g.expand('mask/rows', g.floats('mask', [1, 1, 1, length + text]), [1, 1, length + text, length + text])
    : undefined;

  const mid = g.silu('t_embedder.mlp.1', g.linear('t_embedder.mlp.0', g.floats('time_proj', [1, WAVES]), 1024));
  const time = g.linear('t_embedder.mlp.2', mid, Math.min(dim, MODULATION));

  let picture = pad(g, 'x_pad_token', g.linear(`all_x_embedder.${PART}`, patches, dim), length);
  for (let layer = 0; layer < n_refiner_layers; layer++) {
    g.cut();
    picture = block(g, `noise_refiner.${layer}`, picture, config, { turns: own, time });
  }
  g.cut();
  let stream = g.concat('stream', [picture, context], 0);
  for (let layer = 0; layer < n_layers; layer++) {
    g.cut();
    stream = block(g, `layers.${layer}`, stream, config, { turns: all, time, bias });
  }

  g.cut();
  const last = `all_final_layer.${PART}`;
  const normal = g.plainNorm(`${last}.norm_final`, g.firstOf('stream/picture', stream, tokens), FINAL_NORM);
  const scale = oneMore(
    g,
    `${last}.scale`,
    g.linear(`${last}.adaLN_modulation.1`, g.silu(`${last}.adaLN_modulation.0`, time), dim),
  );
  const output = g.linear(`${last}.linear`, g.binary(`${last}.scaled`, 'Mul', normal, scale), part);
  const whole = unpatched(g, 'out_sample/whole', output, sample, PATCH, 'last');
  g.output('out_sample', g.scaleShift('out_sample/sign', whole, -1, 0));
  return g.graph();
}

interface Stream {
  turns: Angles;
  /** The embedded timestep [1, 256]; absent for the text alone. */
  time?: Value;
  bias?: Value | undefined;
}

/** ZImageTransformerBlock. */
function block(g: LayerWriter, path: string, x: Value, config: Config, { turns, time, bias }: Stream): Value {
  const { dim, norm_eps: epsilon } = config;
  const modulation =
    time &&
    g.split(`${path}/modulation`, g.linear(`${path}.adaLN_modulation.0`, time, 4 * dim), [dim, dim, dim, dim], 1);
  const scaled = (name: string, value: Value, at: number) =>
    modulation ? g.binary(`${path}/${name}`, 'Mul', value, oneMore(g, `${path}/${name}/scale`, modulation[at])) : value;
  const gated = (name: string, value: Value, at: number) =>
    modulation
      ? g.binary(`${path}/${name}`, 'Mul', value, g.unary(`${path}/${name}/gate`, 'Tanh', modulation[at]))
      : value;

  const before = scaled('attention/scaled', g.rmsNorm(`${path}.attention_norm1`, x, epsilon), 0);
  const mixed = g.rmsNorm(
    `${path}.attention_norm2`,
    attention(g, `${path}.attention`, before, config, turns, bias),
    epsilon,
  );
  const hidden = g.add(`${path}/attention/added`, x, gated('attention/gated', mixed, 1));
  const inner = scaled('feed_forward/scaled', g.rmsNorm(`${path}.ffn_norm1`, hidden, epsilon), 2);
  const fed = g.rmsNorm(`${path}.ffn_norm2`, feedForward(g, `${path}.feed_forward`, inner), epsilon);
  return g.add(path, hidden, gated('feed_forward/gated', fed, 3));
}

function attention(
  g: LayerWriter,
  path: string,
  x: Value,
  { dim, n_heads: heads }: Config,
  turns: Angles,
  bias?: Value,
): Value {
  const [q, k, value] = ['q', 'k', 'v'].map((name) => g.linear(`${path}.to_${name}`, x, dim, { bias: false })) as [
    Value,
    Value,
    Value,
  ];
  const turned = (name: 'q' | 'k', each: Value) =>
    g.rotary(`${path}/${name}`, g.headNorm(`${path}.norm_${name}`, each, heads, HEAD_NORM), turns, 'neighbours');
  const mixed = g.attention(path, turned('q', q), turned('k', k), value, heads, bias ? { bias } : {});
  return g.linear(`${path}.to_out.0`, mixed, dim, { bias: false });
}

function feedForward(g: LayerWriter, path: string, x: Value): Value {
  const [, dim] = x.dims as [number, number];
  const inner = Math.floor((dim / 3) * 8);
  const gate = g.silu(`${path}.silu`, g.linear(`${path}.w1`, x, inner, { bias: false }));
  return g.linear(`${path}.w2`, g.binary(path, 'Mul', gate, g.linear(`${path}.w3`, x, inner, { bias: false })), dim, {
    bias: false,
  });
}

/** Pads with a learnt token. */
function pad(g: LayerWriter, token: string, x: Value, length: number): Value {
  const [rows, dim] = x.dims as [number, number];
  if (rows === length) {
    return x;
  }
  const filling = g.expand(`${token}/repeat`, g.weight(token, [1, dim]), [length - rows, dim]);
  return g.concat(`${token}/padded`, [x, filling], 0);
}
