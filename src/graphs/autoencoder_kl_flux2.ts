/**
 * FLUX.2's autoencoder: squares of two by two latents become channels, which are standardised.
 * Reference: diffusers/models/autoencoders/autoencoder_kl_flux2.py; folding and standardising belong to the pipeline
 * (diffusers/pipelines/flux2/pipeline_flux2_klein.py)
 */
import * as v from 'valibot';
import { decode, encode } from './autoencoder_kl.ts';
import { count, counts, divides, flag, only, parseNetworkConfig, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'AutoencoderKLFlux2';

const blocks = <const T extends string>(type: T) =>
  v.optional(v.array(v.literal(type)), () => [type, type, type, type]);

export const configSchema = v.pipe(
  v.object({
    in_channels: count(3),
    out_channels: count(3),
    down_block_types: blocks('DownEncoderBlock2D'),
    up_block_types: blocks('UpDecoderBlock2D'),
    block_out_channels: counts([128, 256, 512, 512]),
    decoder_block_out_channels: unused(),
    layers_per_block: count(2),
    act_fn: only(['silu', 'swish'], 'silu'),
    latent_channels: count(32),
    norm_num_groups: count(32),
    use_quant_conv: flag(true),
    use_post_quant_conv: flag(true),
    mid_block_add_attention: flag(true),
    batch_norm_eps: real(1e-4),
    patch_size: v.optional(v.tuple([v.literal(2), v.literal(2)]), [2, 2]),
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

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Latents per side of a square. */
const SIDE = 2;

/** Channels of the transformer's input. */
export const channelsOf = ({ latent_channels }: Config): number => SIDE * SIDE * latent_channels;

/**
 * Input `latent_sample` [1, {@link channelsOf}, height, width] as sampling leaves it; output `sample`
 * [1, out_channels, 16·height, 16·width] (for four blocks) around [-1, 1]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { height, width } = options;
  const { latent_channels: channels } = config;
  const g = new LayerWriter(`${className} decoder`, weights, options);
  const latents = g.floats('latent_sample', [1, channelsOf(config), height, width]);
  const { mean, deviation } = statistics(g, config);
  const raw = g.add('bn/shifted', g.binary('bn/scaled', 'Mul', latents, deviation), mean);
  const squares = g.reshape('squares', raw, [1, channels, SIDE, SIDE, height, width]);
  const rows = g.transpose('squares/rows', squares, [0, 1, 4, 2, 5, 3]);
  g.output('sample', decode(g, g.reshape('squares/latents', rows, [1, channels, SIDE * height, SIDE * width]), config));
  return g.graph();
}

/**
 * Input `sample` [1, in_channels, height, width] in [-1, 1]; output `latents` [1, {@link channelsOf}, height/16, width/16] (for four
 * blocks): the mean of the encoded Gaussian. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildEncoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { latent_channels: channels } = config;
  const g = new LayerWriter(`${className} encoder`, weights, options);
  const moments = encode(g, g.floats('sample', [1, config.in_channels, options.height, options.width]), config);
  const [middle] = g.split('moments', moments, [channels, channels], 1);
  const [height, width] = [moments.dims[2] / SIDE, moments.dims[3] / SIDE];
  const rows = g.reshape('squares/rows', middle, [1, channels, height, SIDE, width, SIDE]);
  const squares = g.transpose('squares', rows, [0, 1, 3, 5, 2, 4]);
  const packed = g.reshape('squares/channels', squares, [1, channelsOf(config), height, width]);
  const { mean, deviation } = statistics(g, config);
  g.output('latents', g.binary('bn', 'Div', g.binary('bn/centred', 'Sub', packed, mean), deviation));
  return g.graph();
}

/** Of the channels, [1, channels, 1, 1]; folded when the session is created. */
function statistics(g: LayerWriter, config: Config): { mean: Value; deviation: Value } {
  const dims = [1, channelsOf(config), 1, 1];
  const variance = g.add('bn/variance', g.weight('bn.running_var', dims), g.fill(config.batch_norm_eps, [1]));
  return { mean: g.weight('bn.running_mean', dims), deviation: g.unary('bn/deviation', 'Sqrt', variance) };
}
