/**
 * TAESD: a small, fast autoencoder without norms or attention.
 * Reference: diffusers/models/autoencoders/autoencoder_tiny.py, vae.py
 */
import * as v from 'valibot';
import { count, counts, only, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { picture } from './elements.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'AutoencoderTiny';

export const configSchema = v.pipe(
  v.object({
    in_channels: count(3),
    out_channels: count(3),
    encoder_block_out_channels: counts([64, 64, 64, 64]),
    decoder_block_out_channels: counts([64, 64, 64, 64]),
    act_fn: only(['relu'], 'relu'),
    upsample_fn: only(['nearest'], 'nearest'),
    latent_channels: count(4),
    upsampling_scaling_factor: count(2),
    num_encoder_blocks: counts([1, 3, 3, 3]),
    num_decoder_blocks: counts([3, 3, 3, 1]),
    latent_magnitude: real(3),
    latent_shift: real(0.5),
    scaling_factor: real(1),
    shift_factor: real(0),
  }),
  v.check(
    (config) =>
      config.encoder_block_out_channels.length === config.num_encoder_blocks.length &&
      config.decoder_block_out_channels.length === config.num_decoder_blocks.length,
    'the lists in its config.json differ in length',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/**
 * Input `latent_sample` [batch, latent_channels, height, width], output `sample` [batch, out_channels, 8·height, 8·width]
 * (for four blocks) around [-1, 1]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const g = new LayerWriter(`${className} decoder`, weights, options);
  const layer = sequential('decoder.layers');
  const channels = config.decoder_block_out_channels;
  const latents = [options.batch, config.latent_channels, options.height, options.width];

  let clamped = g.scaleShift('clamp/div', g.input('latent_sample', 'float32', latents), 1 / 3, 0);
  clamped = g.scaleShift('clamp', g.unary('clamp/tanh', 'Tanh', clamped), 3, 0);
  let hidden = g.cast('latent_sample/cast', clamped, options.dtype);
  hidden = g.conv(layer(), hidden, channels[0]);
  hidden = g.unary(layer(), 'Relu', hidden);
  config.num_decoder_blocks.forEach((blocks, index) => {
    const last = index === channels.length - 1;
    const width = channels[index];
    for (let block = 0; block < blocks; block++) {
      hidden = tinyBlock(g, layer(), hidden, width);
    }
    if (!last) {
      const [, , h, w] = picture(hidden);
      const factor = config.upsampling_scaling_factor;
      hidden = g.resize(layer(), hidden, factor * h, factor * w);
    }
    hidden = g.conv(layer(), hidden, last ? config.out_channels : width, { bias: last });
  });
  g.output('sample', g.scaleShift('range', g.cast('range/cast', hidden, 'f32'), 2, -1));
  return g.graph();
}

/**
 * Input `sample` [batch, in_channels, height, width] in [-1, 1], output `latents`
 * [batch, latent_channels, height/8, width/8] (for four blocks). All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildEncoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const g = new LayerWriter(`${className} encoder`, weights, options);
  const layer = sequential('encoder.layers');
  const dims = [options.batch, config.in_channels, options.height, options.width];

  const range = g.scaleShift('range', g.input('sample', 'float32', dims), 0.5, 0.5);
  let hidden = g.cast('sample/cast', range, options.dtype);
  config.num_encoder_blocks.forEach((blocks, index) => {
    const width = config.encoder_block_out_channels[index];
    hidden = g.conv(layer(), hidden, width, index === 0 ? {} : { stride: 2, bias: false });
    for (let block = 0; block < blocks; block++) {
      hidden = tinyBlock(g, layer(), hidden, width);
    }
  });
  g.output('latents', g.conv(layer(), hidden, config.latent_channels));
  return g.graph();
}

/** Names of a torch.nn.Sequential's members, in order. */
function sequential(path: string): () => string {
  let index = 0;
  return () => `${path}.${index++}`;
}

/** AutoencoderTinyBlock. */
function tinyBlock(g: LayerWriter, path: string, x: Value, out: number): Value {
  let hidden = g.unary(`${path}.conv.1`, 'Relu', g.conv(`${path}.conv.0`, x, out));
  hidden = g.unary(`${path}.conv.3`, 'Relu', g.conv(`${path}.conv.2`, hidden, out));
  hidden = g.conv(`${path}.conv.4`, hidden, out);
  const skip = picture(x)[1] === out ? x : g.conv(`${path}.skip`, x, out, { kernel: 1, bias: false });
  return g.unary(`${path}.fuse`, 'Relu', g.add(`${path}/add`, hidden, skip));
}
