/**
 * The autoencoder of Stable Audio and ACE-Step: waveforms to latents and back. A waveform is treated as a picture one pixel high, [batch,
 * channels, 1, samples]. Reference: diffusers/models/autoencoders/autoencoder_oobleck.py
 */
import * as v from 'valibot';
import { count, counts, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'AutoencoderOobleck';

export const configSchema = v.pipe(
  v.object({
    encoder_hidden_size: count(128),
    downsampling_ratios: counts([2, 4, 4, 8, 8]),
    channel_multiples: counts([1, 2, 4, 8, 16]),
    decoder_channels: count(128),
    decoder_input_channels: count(64),
    audio_channels: count(2),
    sampling_rate: count(44100),
  }),
  v.check(
    ({ downsampling_ratios, channel_multiples }) => downsampling_ratios.length === channel_multiples.length,
    'the lists in its config.json differ in length',
  ),
  // Its layers change the length if the stride is odd.
  v.check(
    ({ downsampling_ratios }) => downsampling_ratios.every((ratio) => ratio % 2 === 0),
    'not all of its downsampling_ratios are even',
  ),
  v.check(
    ({ encoder_hidden_size, decoder_input_channels }) => encoder_hidden_size === 2 * decoder_input_channels,
    'its encoder gives other latents than its decoder takes',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Samples per latent. */
export function hopOf({ downsampling_ratios: ratios }: Config): number {
  return ratios.reduce((product, ratio) => product * ratio, 1);
}

const KERNEL = 7;
const DILATIONS = [1, 3, 9];
/** Samples on each side, at the block's own rate, that its residual units see. */
const SEEN_BY_UNITS = ((KERNEL - 1) / 2) * DILATIONS.reduce((sum, dilation) => sum + dilation, 0);

/**
 * How many latents of context are needed on each side to decode or encode what lies between them exactly as within the whole. The whole's
 * own edges need none.
 */
export function overlapOf(config: Config): number {
  // From samples to latents; a transposed convolution reaches one input to each side, as does a strided one.
  const seen = config.downsampling_ratios.reduce((reach, ratio) => (reach + SEEN_BY_UNITS) / ratio + 1, KERNEL);
  return Math.ceil(seen) + (KERNEL - 1) / 2;
}

/**
 * Input `latent_sample` [1, decoder_input_channels, 1, width]; output `sample` [1, audio_channels, 1, hop · width]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { decoder_channels: base, decoder_input_channels: latents, audio_channels } = config;
  const g = new LayerWriter(`${className} decoder`, weights, options);
  const strides = [...config.downsampling_ratios].reverse();
  const widths = [...widthsOf(config, base)].reverse();

  const sample = g.floats('latent_sample', [options.batch, latents, 1, options.width]);
  let hidden = along(g, 'decoder.conv1', sample, widths[0], KERNEL);
  strides.forEach((stride, index) => {
    const path = `decoder.block.${index}`;
    hidden = snake(g, `${path}.snake1`, hidden);
    hidden = g.convTranspose1d(`${path}.conv_t1`, hidden, widths[index + 1], 2 * stride, stride, stride / 2);
    hidden = residualUnits(g, path, hidden);
  });
  hidden = snake(g, 'decoder.snake1', hidden);
  g.output('sample', along(g, 'decoder.conv2', hidden, audio_channels, KERNEL, { bias: false }));
  return g.graph();
}

/**
 * Input `sample` [1, audio_channels, 1, width], in samples, a multiple of the hop; output `latent_parameters`
 * [1, 2·decoder_input_channels, 1, width/hop]: means, then what {@link deviation} turns into standard deviations. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildEncoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { encoder_hidden_size: base, audio_channels } = config;
  const g = new LayerWriter(`${className} encoder`, weights, options);
  const widths = widthsOf(config, base);

  const sample = g.floats('sample', [options.batch, audio_channels, 1, options.width]);
  let hidden = along(g, 'encoder.conv1', sample, widths[0], KERNEL);
  config.downsampling_ratios.forEach((stride, index) => {
    const path = `encoder.block.${index}`;
    hidden = snake(g, `${path}.snake1`, residualUnits(g, path, hidden));
    hidden = along(g, `${path}.conv1`, hidden, widths[index + 1], 2 * stride, { stride, padding: stride / 2 });
  });
  hidden = snake(g, 'encoder.snake1', hidden);
  g.output('latent_parameters', along(g, 'encoder.conv2', hidden, base, 3));
  return g.graph();
}

/** The standard deviation of the encoder's Gaussian, from the second half of its output. */
export function deviation(parameter: number): number {
  return Math.max(parameter, 0) + Math.log1p(Math.exp(-Math.abs(parameter))) + 1e-4;
}

/** Channels before the first block and after each, in the encoder's order. */
function widthsOf({ channel_multiples }: Config, base: number): number[] {
  return [1, ...channel_multiples].map((multiple) => multiple * base);
}

/** torch.nn.Conv1d. */
function along(
  g: LayerWriter,
  path: string,
  x: Value,
  out: number,
  kernel: number,
  {
    stride = 1,
    dilation = 1,
    padding = (dilation * (kernel - 1)) / 2,
    bias = true,
  }: { stride?: number; dilation?: number; padding?: number; bias?: boolean } = {},
): Value {
  return g.conv(path, x, out, {
    kernel: [1, kernel],
    stride: [1, stride],
    dilation: [1, dilation],
    padding: [0, padding, 0, padding],
    bias,
  });
}

/** The three OobleckResidualUnits of a block. */
function residualUnits(g: LayerWriter, path: string, x: Value): Value {
  const [, width] = x.dims;
  return DILATIONS.reduce((hidden, dilation, index) => {
    const unit = `${path}.res_unit${index + 1}`;
    const wide = along(g, `${unit}.conv1`, snake(g, `${unit}.snake1`, hidden), width, KERNEL, { dilation });
    const narrow = along(g, `${unit}.conv2`, snake(g, `${unit}.snake2`, wide), width, 1);
    return g.add(`${unit}/add`, hidden, narrow);
  }, x);
}

/** Snake1d: x + sin²(αx) / β; α and β are stored as logarithms. */
function snake(g: LayerWriter, path: string, x: Value): Value {
  const [, width] = x.dims;
  // What depends on weights alone is computed once, when the session is created.
  const factor = (name: string) => g.unary(`${path}/${name}`, 'Exp', g.weight(`${path}.${name}`, [width, 1, 1]));
  const share = g.unary(
    `${path}/share`,
    'Reciprocal',
    g.add(`${path}/positive`, factor('beta'), g.constant([1e-9], 'f32')),
  );
  const wave = g.unary(`${path}/sin`, 'Sin', g.binary(`${path}/scaled`, 'Mul', x, factor('alpha')));
  const squared = g.binary(`${path}/squared`, 'Mul', wave, wave);
  return g.add(path, x, g.binary(`${path}/part`, 'Mul', squared, share));
}
