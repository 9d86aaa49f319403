/**
 * The autoencoder of Qwen-Image, a causal one for videos that is given one frame: its kernels' earlier frames meet nothing and its layers
 * between frames do nothing. Latents are standardised by channel.
 * Reference: diffusers/models/autoencoders/autoencoder_kl_qwenimage.py; the standardising is the pipeline's
 * (diffusers/pipelines/qwenimage/pipeline_qwenimage.py)
 */
import * as v from 'valibot';
import { count, counts, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { picture } from './elements.ts';
import { LayerWriter } from './layers.ts';
import { float, type Value } from './onnx.ts';

export const className = 'AutoencoderKLQwenImage';

const numbers = (standard: readonly number[]) => v.optional(v.array(v.number()), () => [...standard]);

export const configSchema = v.pipe(
  v.object({
    base_dim: count(96),
    z_dim: count(16),
    dim_mult: counts([1, 2, 4, 4]),
    num_res_blocks: count(2),
    attn_scales: v.optional(v.pipe(v.array(v.number()), v.length(0)), () => []),
    temperal_downsample: v.optional(v.array(v.boolean()), () => [false, true, true]),
    /** Of pictures: the fourth is how opaque they are. */
    input_channels: v.optional(v.picklist([3, 4]), 3),
    latents_mean: numbers([
      -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
      -0.9497, 0.2503, -0.2921,
    ]),
    latents_std: numbers([
      2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
      2.8251, 1.916,
    ]),
  }),
  v.check(
    ({ dim_mult, temperal_downsample }) => dim_mult.length === temperal_downsample.length + 1,
    'the lists in its config.json differ in length',
  ),
  v.check(
    ({ z_dim, latents_mean, latents_std }) => latents_mean.length === z_dim && latents_std.length === z_dim,
    'its latents_mean and latents_std do not have a number for each of its z_dim channels',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Pixels per side of a latent. */
export const factorOf = ({ temperal_downsample }: Config): number => 2 ** temperal_downsample.length;

/** Of its convolutions over frames. */
const FRAMES = 3;
/** Nothing but a guard against division by zero. */
const EPSILON = 1e-12;

/**
 * Input `latent_sample` [1, z_dim, height, width] as sampling leaves it; output `sample` [1, input_channels, 8·height, 8·width] (for four levels) around
 * [-1, 1]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { base_dim, z_dim, dim_mult, num_res_blocks, input_channels, latents_mean, latents_std } = config;
  const g = new LayerWriter(`${className} decoder`, weights, options);
  const latents = g.floats('latent_sample', [1, z_dim, options.height, options.width]);
  const raw = standardised(g, 'latents', latents, latents_std, latents_mean);
  const widths = [...dim_mult].reverse().map((mult) => mult * base_dim);
  let hidden = g.conv('post_quant_conv', raw, z_dim, { kernel: 1 });
  hidden = g.conv('decoder.conv_in', hidden, widths[0], { frames: FRAMES });
  hidden = midBlock(g, 'decoder.mid_block', hidden);
  widths.forEach((out, level) => {
    const path = `decoder.up_blocks.${level}`;
    for (let layer = 0; layer < num_res_blocks + 1; layer++) {
      hidden = residualBlock(g, `${path}.resnets.${layer}`, hidden, out);
    }
    if (level < widths.length - 1) {
      const [, , height, width] = picture(hidden);
      const larger = g.resize(`${path}.upsamplers.0.resample.0`, hidden, 2 * height, 2 * width);
      hidden = g.conv(`${path}.upsamplers.0.resample.1`, larger, out / 2);
    }
  });
  hidden = normed(g, 'decoder.norm_out', hidden);
  g.output('sample', g.conv('decoder.conv_out', hidden, input_channels, { frames: FRAMES }));
  return g.graph();
}

/**
 * Input `sample` [1, input_channels, height, width] in [-1, 1]; output `latent_parameters` [1, 2·z_dim, height/8, width/8] (for four levels): means, then
 * log variances, of standardised latents. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildEncoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { base_dim, z_dim, dim_mult, num_res_blocks, input_channels, latents_mean, latents_std } = config;
  const g = new LayerWriter(`${className} encoder`, weights, options);
  const sample = g.floats('sample', [1, input_channels, options.height, options.width]);
  let hidden = g.conv('encoder.conv_in', sample, dim_mult[0] * base_dim, { frames: FRAMES });
  // The blocks of all levels, and what makes the picture smaller between them, are numbered as one list.
  let at = 0;
  dim_mult.forEach((mult, level) => {
    for (let layer = 0; layer < num_res_blocks; layer++) {
      hidden = residualBlock(g, `encoder.down_blocks.${at++}`, hidden, mult * base_dim);
    }
    if (level < dim_mult.length - 1) {
      const path = `encoder.down_blocks.${at++}.resample.1`;
      hidden = g.conv(path, hidden, mult * base_dim, { stride: 2, padding: [0, 0, 1, 1] });
    }
  });
  hidden = midBlock(g, 'encoder.mid_block', hidden);
  hidden = normed(g, 'encoder.norm_out', hidden);
  hidden = g.conv('encoder.conv_out', hidden, 2 * z_dim, { frames: FRAMES });
  const moments = g.conv('quant_conv', hidden, 2 * z_dim, { kernel: 1 });
  // Dividing a Gaussian by s takes 2·ln(s) from the logarithm of its variance.
  const factors = [...latents_std.map((std) => 1 / std), ...latents_std.map(() => 1)];
  const shifts = [
    ...latents_mean.map((mean, i) => -mean / latents_std[i]),
    ...latents_std.map((std) => -2 * Math.log(std)),
  ];
  g.output('latent_parameters', standardised(g, 'moments', moments, factors, shifts));
  return g.graph();
}

/** x · factor + shift, with one of each for every channel. */
function standardised(
  g: LayerWriter,
  name: string,
  x: Value,
  factors: readonly number[],
  shifts: readonly number[],
): Value {
  const perChannel = (part: string, values: readonly number[]) =>
    g.reshape(`${name}/${part}`, g.constant(values, 'f32'), [1, values.length, 1, 1]);
  const scaled = g.binary(`${name}/scaled`, 'Mul', x, perChannel('factors', factors));
  return g.add(`${name}/shifted`, scaled, perChannel('shifts', shifts));
}

/** QwenImageResidualBlock. */
function residualBlock(g: LayerWriter, path: string, x: Value, out: number): Value {
  const shortcut = picture(x)[1] === out ? x : g.conv(`${path}.conv_shortcut`, x, out, { kernel: 1 });
  const inner = g.conv(`${path}.conv1`, normed(g, `${path}.norm1`, x), out, { frames: FRAMES });
  const change = g.conv(`${path}.conv2`, normed(g, `${path}.norm2`, inner), out, { frames: FRAMES });
  return g.add(`${path}/add`, change, shortcut);
}

/** QwenImageMidBlock. */
function midBlock(g: LayerWriter, path: string, x: Value): Value {
  const [, channels] = picture(x);
  const first = residualBlock(g, `${path}.resnets.0`, x, channels);
  return residualBlock(g, `${path}.resnets.1`, selfAttention(g, `${path}.attentions.0`, first), channels);
}

function selfAttention(g: LayerWriter, path: string, x: Value): Value {
  const [, channels] = picture(x);
  const all = g.linear(`${path}.to_qkv`, channelNorm(g, `${path}.norm`, g.tokens(`${path}/tokens`, x)), 3 * channels);
  const [q, k, value] = g.split(`${path}/parts`, all, [channels, channels, channels], 1);
  const mixed = g.linear(`${path}.proj`, g.attention(path, q, k, value, 1), channels);
  return g.add(`${path}/add`, g.untokens(`${path}/picture`, mixed, x), x);
}

/** A picture's channels, normalised pixel by pixel, and SiLU. */
function normed(g: LayerWriter, path: string, x: Value): Value {
  const normal = channelNorm(g, path, g.tokens(`${path}/tokens`, x));
  return g.untokens(`${path}/picture`, g.silu(`${path}/silu`, normal), x);
}

/** QwenImageRMS_norm. @param x [pixels, channels] */
function channelNorm(g: LayerWriter, path: string, x: Value): Value {
  const gamma = g.weight(`${path}.gamma`, [x.dims[1]]);
  return g.node(path, 'SimplifiedLayerNormalization', [x, gamma], x.dims, {
    attributes: { axis: -1, epsilon: float(EPSILON) },
  });
}
