/**
 * The variational autoencoder of Stable Diffusion.
 * Reference: diffusers/models/autoencoders/autoencoder_kl.py, vae.py
 */
import * as v from 'valibot';
import { pictureAttention } from './attention.ts';
import { count, counts, divides, flag, only, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';
import { double, downsample, resnetBlock } from './resnet.ts';

export const className = 'AutoencoderKL';

export const configSchema = v.pipe(
  v.object({
    in_channels: count(3),
    out_channels: count(3),
    down_block_types: v.optional(v.array(v.literal('DownEncoderBlock2D')), () => ['DownEncoderBlock2D' as const]),
    up_block_types: v.optional(v.array(v.literal('UpDecoderBlock2D')), () => ['UpDecoderBlock2D' as const]),
    block_out_channels: counts([64]),
    layers_per_block: count(1),
    act_fn: only(['silu', 'swish'], 'silu'),
    latent_channels: count(4),
    norm_num_groups: count(32),
    scaling_factor: real(0.18215),
    shift_factor: v.optional(v.nullable(v.number()), null),
    force_upcast: flag(true),
    use_quant_conv: flag(true),
    use_post_quant_conv: flag(true),
    mid_block_add_attention: flag(true),
  }),
  v.check(
    ({ block_out_channels: { length }, down_block_types, up_block_types }) =>
      down_block_types.length === length && up_block_types.length === length,
    'the lists in its config.json differ in length',
  ),
  v.check(
    ({ block_out_channels, norm_num_groups }) => divides(norm_num_groups, block_out_channels),
    'its norm_num_groups does not divide its block_out_channels',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** The building blocks of its encoder and decoder. */
export type Parts = Omit<Config, 'scaling_factor' | 'shift_factor' | 'force_upcast'>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

const EPSILON = 1e-6;

/**
 * Input `latent_sample` [batch, latent_channels, height, width], already divided by scaling_factor; output `sample`
 * [batch, out_channels, 8·height, 8·width] (for four blocks) around [-1, 1]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const g = new LayerWriter(`${className} decoder`, weights, options);
  const latents = [options.batch, config.latent_channels, options.height, options.width];
  g.output('sample', decode(g, g.floats('latent_sample', latents), config));
  return g.graph();
}

/** The nodes of {@link buildDecoder}: latents to a picture. */
export function decode(g: LayerWriter, latents: Value, config: Parts): Value {
  const { norm_num_groups: groups } = config;
  const channels = [...config.block_out_channels].reverse();
  const widest = channels[0];

  let hidden = latents;
  if (config.use_post_quant_conv) {
    hidden = g.conv('post_quant_conv', hidden, config.latent_channels, { kernel: 1 });
  }
  hidden = g.conv('decoder.conv_in', hidden, widest);
  hidden = midBlock(g, 'decoder.mid_block', hidden, widest, config);
  channels.forEach((out, index) => {
    const path = `decoder.up_blocks.${index}`;
    for (let layer = 0; layer < config.layers_per_block + 1; layer++) {
      hidden = resnetBlock(g, `${path}.resnets.${layer}`, hidden, { out, groups, epsilon: EPSILON });
    }
    if (index < channels.length - 1) {
      hidden = double(g, `${path}.upsamplers.0`, hidden);
    }
  });
  return output(g, 'decoder', hidden, groups, config.out_channels);
}

/**
 * Input `sample` [batch, in_channels, height, width] in [-1, 1]; output `latent_parameters`
 * [batch, 2·latent_channels, height/8, width/8] (for four blocks): means, then log variances, not clamped. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildEncoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const g = new LayerWriter(`${className} encoder`, weights, options);
  const sample = g.floats('sample', [options.batch, config.in_channels, options.height, options.width]);
  g.output('latent_parameters', encode(g, sample, config));
  return g.graph();
}

/** The nodes of {@link buildEncoder}: a picture to means and log variances. */
export function encode(g: LayerWriter, sample: Value, config: Parts): Value {
  const { norm_num_groups: groups, block_out_channels: channels } = config;
  const moments = 2 * config.latent_channels;

  let hidden = g.conv('encoder.conv_in', sample, channels[0]);
  channels.forEach((out, index) => {
    const path = `encoder.down_blocks.${index}`;
    for (let layer = 0; layer < config.layers_per_block; layer++) {
      hidden = resnetBlock(g, `${path}.resnets.${layer}`, hidden, { out, groups, epsilon: EPSILON });
    }
    if (index < channels.length - 1) {
      hidden = downsample(g, `${path}.downsamplers.0`, hidden, 0);
    }
  });
  hidden = midBlock(g, 'encoder.mid_block', hidden, channels.at(-1) as number, config);
  hidden = output(g, 'encoder', hidden, groups, moments);
  return config.use_quant_conv ? g.conv('quant_conv', hidden, moments, { kernel: 1 }) : hidden;
}

/** UNetMidBlock2D. */
function midBlock(g: LayerWriter, path: string, x: Value, out: number, config: Parts): Value {
  const options = { out, groups: config.norm_num_groups, epsilon: EPSILON };
  let hidden = resnetBlock(g, `${path}.resnets.0`, x, options);
  if (config.mid_block_add_attention) {
    hidden = pictureAttention(g, `${path}.attentions.0`, hidden, options.groups, EPSILON);
  }
  return resnetBlock(g, `${path}.resnets.1`, hidden, options);
}

function output(g: LayerWriter, path: string, x: Value, groups: number, out: number): Value {
  const hidden = g.groupNorm(`${path}.conv_norm_out`, x, groups, EPSILON, 'silu');
  return g.conv(`${path}.conv_out`, hidden, out);
}
