/**
 * SAME, the autoencoder of Stable Audio 3: transformers over short pieces of a waveform, each of which becomes one latent. A token sees as far as
 * one latent to each side in each layer, so attention is computed latent by latent. Waveforms are pictures one pixel high, [1, channels, 1, samples].
 * Reference: diffusers/models/autoencoders/autoencoder_same.py
 */
import * as v from 'valibot';
import { count, flag, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, type RotaryTables } from './rotary.ts';
import { differential, queriesKeysValues } from './stable_audio_layers.ts';

export const className = 'AutoencoderSAME';

const THETA = 10_000;
/** Low enough that a score becomes 0. */
const HIDDEN = -60_000;

interface Widths {
  encoder_channels: number;
  encoder_c_mults: [number];
  dim_heads: number;
}

/** The published ones have one level; more of them cut sounds otherwise. */
const level = (fallback: number, least = 1) =>
  v.optional(v.strictTuple([v.pipe(v.number(), v.integer(), v.minValue(least))]), () => [fallback] as [number]);

export const configSchema = v.pipe(
  v.object({
    audio_channels: count(2),
    patch_size: count(256),
    encoder_channels: count(128),
    encoder_c_mults: level(6),
    encoder_strides: level(16),
    encoder_transformer_depths: level(6),
    latent_dim: count(256),
    use_differential_attention: flag(true),
    /** Of the layout, not of diffusers' configurations. */
    qkv_order: v.optional(v.picklist(['views', 'authors']), 'views'),
    dim_heads: count(64),
    ff_mult: count(3),
    sliding_window: count(1),
    encoder_sinusoidal_blocks: level(0, 0),
    decoder_sinusoidal_blocks: level(0, 0),
    sampling_rate: count(44100),
  }),
  v.check(
    (config) => widthOf(config) % headOf(config) === 0 && headOf(config) % 4 === 0,
    'its dim_heads and encoder_channels do not fit',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Samples per latent. */
export function hopOf({ patch_size, encoder_strides: [stride] }: Config): number {
  return patch_size * stride;
}

/** How many latents of context are needed on each side to compute what lies between exactly as within the whole. */
export function overlapOf({ encoder_transformer_depths: [depth], sliding_window: window }: Config): number {
  return depth * window;
}

/** Elements of a token between the layers. */
export function widthOf({ encoder_channels, encoder_c_mults: [multiple] }: Widths): number {
  return encoder_channels * multiple;
}

function headOf(config: Widths): number {
  return Math.min(config.dim_heads, widthOf(config));
}

/** Tokens that stand for one latent: of its samples, and its own. */
export function segmentOf({ encoder_strides: [stride] }: Config): number {
  return stride + 1;
}

/** Cosines and sines of the positions, each [latents · {@link segmentOf}, dim_heads / 4]. */
export function angles(config: Config, latents: number): RotaryTables {
  const ids = Array.from({ length: latents * segmentOf(config) }, (_, position) => [position]);
  return rotaryTables(ids, [headOf(config) / 2], THETA);
}

/** The dimensions of {@link band}. */
export function bandDims(config: Config, latents: number): number[] {
  const segment = segmentOf(config);
  return [latents, 1, segment, (2 * config.sliding_window + 1) * segment];
}

/** What is added to the scores of each latent's tokens for its own and its neighbours', which may be too far away, or not there. */
export function band(config: Config, latents: number): Float32Array<ArrayBuffer> {
  const [, , segment, keys] = bandDims(config, latents);
  const far = config.sliding_window * segment;
  const bias = new Float32Array(latents * segment * keys);
  for (let latent = 0, at = 0; latent < latents; latent++) {
    for (let query = 0; query < segment; query++) {
      for (let key = 0; key < keys; key++, at++) {
        const position = latent * segment + key - far;
        const isThere = position >= 0 && position < latents * segment;
        bias[at] = isThere && Math.abs(key - far - query) <= far ? 0 : HIDDEN;
      }
    }
  }
  return bias;
}

/**
 * Inputs `latent_sample` [1, latent_dim, 1, width], `cos` and `sin` ({@link angles}), `band`; output `sample` [1, audio_channels, 1, hop · width].
 * All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { latent_dim, encoder_strides, patch_size: patch, audio_channels: channels } = config;
  const { width: latents } = options;
  const [stride] = encoder_strides;
  const dim = widthOf(config);
  const g = new LayerWriter(`${className} decoder`, weights, options);
  const path = 'decoder.blocks.0';

  const sample = g.tokens('latents', g.floats('latent_sample', [1, latent_dim, 1, latents]));
  const spread = g.binary('spread', 'Mul', sample, g.weight('bottleneck.running_std', [1]));
  const own = g.reshape('segments/own', g.linear('decoder.proj', spread, dim), [latents, 1, dim]);
  const others = g.expand('segments/new', g.weight(`${path}.new_tokens`, [1, 1, dim]), [latents, stride, dim]);
  const seen = layers(g, path, g.concat('segments', [own, others], 1), config, config.decoder_sinusoidal_blocks[0]);
  const [, tokens] = g.split('segments/parts', seen, [1, stride], 1);
  const frames = latents * stride;
  const rows = mapping(g, path, g.reshape('frames', tokens, [frames, dim]), channels * patch);
  const patches = g.reshape('patches', rows, [frames, channels, patch]);
  const planes = g.transpose('planes', patches, [1, 0, 2]);
  g.output('sample', g.reshape('line', planes, [1, channels, 1, frames * patch]));
  return g.graph();
}

/**
 * Inputs `sample` [1, audio_channels, 1, width], in samples, a multiple of the hop, `cos`, `sin` and `band` as the decoder's; output `latents`
 * [1, latent_dim, 1, width/hop]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildEncoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { latent_dim, encoder_strides, patch_size: patch, audio_channels: channels } = config;
  const [stride] = encoder_strides;
  const latents = options.width / hopOf(config);
  const frames = latents * stride;
  const dim = widthOf(config);
  const g = new LayerWriter(`${className} encoder`, weights, options);
  const path = 'encoder.blocks.0';

  const token = g.weight(`${path}.new_tokens`, [1, 1, dim]);
  const sample = g.floats('sample', [1, channels, 1, options.width]);
  const planes = g.reshape('planes', sample, [channels, frames, patch]);
  const patches = g.reshape('patches', g.transpose('frames', planes, [1, 0, 2]), [frames, channels * patch]);
  const others = g.reshape('segments/frames', mapping(g, path, patches, dim), [latents, stride, dim]);
  const own = g.expand('segments/new', token, [latents, 1, dim]);
  const seen = layers(g, path, g.concat('segments', [others, own], 1), config, config.encoder_sinusoidal_blocks[0]);
  const [, tokens] = g.split('segments/parts', seen, [stride, 1], 1);
  const projected = g.linear('encoder.proj', g.reshape('own', tokens, [latents, dim]), latent_dim);
  const factor = (name: string, length: number) => g.weight(`bottleneck.${name}`, [length]);
  const moved = g.add(
    'moved',
    g.binary('scaled', 'Mul', projected, factor('scale', latent_dim)),
    factor('bias', latent_dim),
  );
  const even = g.binary('even', 'Div', moved, factor('running_std', 1));
  g.output('latents', g.reshape('line', g.transpose('rows', even, [1, 0]), [1, latent_dim, 1, latents]));
  return g.graph();
}

/** A convolution of one frame each, where the widths differ. */
function mapping(g: LayerWriter, path: string, x: Value, out: number): Value {
  return x.dims[1] === out ? x : g.linear(`${path}.mapping`, x, out);
}

/** The transformer of a level on [latents, tokens, dim]. @param waves how many of its last layers but one gate by a sine */
function layers(g: LayerWriter, path: string, x: Value, config: Config, waves: number): Value {
  const [latents, segment, dim] = x.dims;
  const {
    encoder_transformer_depths: [depth],
    ff_mult,
  } = config;
  const rows = latents * segment;
  const turns = anglesInput(g, '', rows, headOf(config) / 4);
  const bias = g.floats('band', bandDims(config, latents));
  let hidden = g.reshape(`${path}/tokens`, x, [rows, dim]);
  for (let layer = 0; layer < depth; layer++) {
    const own = `${path}.transformers.${layer}`;
    const seen = attention(g, `${own}.attn`, dynamicTanh(g, `${own}.norm_attn`, hidden), turns, bias, config);
    hidden = g.linear(`${own}.attn.to_out`, seen, dim, { bias: hidden });
    const projected = g.linear(`${own}.ff.proj_in`, dynamicTanh(g, `${own}.norm_ff`, hidden), 2 * ff_mult * dim);
    const [up, gate] = g.split(`${own}.ff/parts`, projected, [ff_mult * dim, ff_mult * dim], 1);
    const isWave = depth - layer < waves;
    const open = isWave
      ? g.unary(`${own}.ff/wave`, 'Sin', g.scaleShift(`${own}.ff/turn`, gate, Math.PI, 0))
      : g.silu(`${own}.ff/gate`, gate);
    const fed = g.linear(`${own}.ff.proj_out`, g.binary(`${own}.ff`, 'Mul', up, open), dim);
    hidden = g.add(`${own}/fed`, hidden, fed);
  }
  return g.reshape(`${path}/segments`, hidden, [latents, segment, dim]);
}

/** Each latent's tokens look at their own and at those of the neighbours. @returns before the last projection */
function attention(g: LayerWriter, path: string, x: Value, turns: Angles, bias: Value, config: Config): Value {
  const [rows, dim] = x.dims;
  const { use_differential_attention: twice, sliding_window: window } = config;
  const [segment, head] = [segmentOf(config), headOf(config)];
  const [latents, views] = [rows / segment, twice ? 2 : 1];
  const heads = dim / head;
  const [query, key, value] = queriesKeysValues(g, path, x, { twice, order: config.qkv_order });
  const [q, k] = [query, key].map((one, i) => {
    const part = 'qk'[i];
    const normal = g.perHead(`${path}.${part}_norm`, one, views * heads, (parts) =>
      dynamicTanh(g, `${path}.${part}_norm`, parts),
    );
    const turned = { heads: views * heads, turned: head / 2 };
    return g.rotary(`${path}/${part}/turned`, normal, turns, 'halves', turned);
  });
  const width = (views + 1) * dim;
  const pairs = g.reshape(`${path}/pairs`, g.concat(`${path}/kv`, [k, value], 1), [latents, segment * width]);
  const nothing = g.fill(0, [window, segment * width]);
  const wide = g.concat(`${path}/wide`, [nothing, pairs, nothing], 0);
  const shifted = Array.from({ length: 2 * window + 1 }, (_, n) => {
    const range = [n, n + latents, 0].map((number) => g.constant([number]));
    const slice = g.node(`${path}/neighbour/${n}`, 'Slice', [wide, ...range], [latents, segment * width]);
    return g.reshape(`${path}/neighbour/${n}/tokens`, slice, [latents, segment, width]);
  });
  const near = g.reshape(`${path}/rows`, g.concat(`${path}/near`, shifted, 1), [shifted.length * rows, width]);
  const [keys, values] = g.split(`${path}/near/kv`, near, [views * dim, dim], 1);
  return differential(g, path, { q, k: keys, v: values }, heads, twice, { bias, batch: latents });
}

/** γ · tanh(α · x) + β in place of a norm. */
function dynamicTanh(g: LayerWriter, path: string, x: Value): Value {
  const width = x.dims[1];
  const scaled = g.binary(`${path}/scaled`, 'Mul', x, g.weight(`${path}.alpha`, [1]));
  const bent = g.unary(`${path}/tanh`, 'Tanh', scaled);
  return g.add(
    path,
    g.binary(`${path}/gained`, 'Mul', bent, g.weight(`${path}.gamma`, [width])),
    g.weight(`${path}.beta`, [width]),
  );
}
