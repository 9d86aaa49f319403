/**
 * The autoencoder of Wan 2.1 and 2.2: videos to latents and back. Its convolutions look at the two frames before, so it goes through a video
 * piece by piece: the first frame by itself, then four frames for each of the latents. What a layer has seen of the pieces before is an input
 * of the graph, and what the next piece will want is an output.
 * Reference: diffusers/models/autoencoders/autoencoder_kl_wan.py
 */
import * as v from 'valibot';
import { count, counts, flag, parseNetworkConfig, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { picture } from './elements.ts';
import { FrameWriter, NOTHING, countOf, patched, perChannel, unpatched } from './frame_layers.ts';
import type { LayerWriter } from './layers.ts';
import { float, type Value } from './onnx.ts';

export const className = 'AutoencoderKLWan';

/** Of the sum of squares' mean: only what is 0 must not be divided by itself. */
const NORM_EPSILON = 1e-20;

const numbers = (values: number[]) => v.optional(v.array(v.number()), () => [...values]);

export const configSchema = v.pipe(
  v.object({
    base_dim: count(96),
    decoder_base_dim: v.optional(v.nullable(v.number()), null),
    z_dim: count(16),
    dim_mult: counts([1, 2, 4, 4]),
    num_res_blocks: count(2),
    attn_scales: v.optional(v.pipe(v.array(v.unknown()), v.maxLength(0)), () => []),
    temperal_downsample: v.optional(v.array(v.boolean()), () => [false, true, true]),
    latents_mean: numbers([
      -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
      -0.9497, 0.2503, -0.2921,
    ]),
    latents_std: numbers([
      2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
      2.8251, 1.916,
    ]),
    is_residual: flag(false),
    in_channels: count(3),
    out_channels: count(3),
    patch_size: v.optional(v.nullable(v.number()), null),
    non_linearity: unused('silu'),
  }),
  v.check(
    ({ dim_mult, temperal_downsample }) => temperal_downsample.length === dim_mult.length - 1,
    'its temperal_downsample and its dim_mult differ in length',
  ),
  v.check(
    ({ z_dim, latents_mean, latents_std }) => latents_mean.length === z_dim && latents_std.length === z_dim,
    'its latents_mean or latents_std are not of its z_dim',
  ),
  v.check(
    ({ in_channels, out_channels, patch_size }) =>
      [in_channels, out_channels].every((channels) => channels === 3 * (patch_size ?? 1) ** 2),
    'its pictures have other channels than red, green and blue',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Pixels per latent along one side. */
export function factorOf({ dim_mult, patch_size }: Config): number {
  return 2 ** (dim_mult.length - 1) * (patch_size ?? 1);
}

/** Frames that each of the latents but the first stands for. */
export function framesPerLatent({ temperal_downsample }: Config): number {
  return 2 ** temperal_downsample.filter(Boolean).length;
}

export interface Options extends GraphOptions {
  /** Whether it is for the first frame of a video; otherwise for what follows. */
  isFirst: boolean;
}

/**
 * Input `latent_sample` [1, z_dim, height, width], as sampling leaves it; output `sample` [frames, 3, H, W] around [-1, 1], of one frame if it
 * is the first. Beside them inputs that match `SEEN` of `frame_layers.ts` and outputs that match `KEPT`, [1, channels, h, w]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: Options): Graph {
  const { z_dim, num_res_blocks, is_residual, dim_mult, temperal_downsample, out_channels } = config;
  const base = config.decoder_base_dim ?? config.base_dim;
  const g = new CausalWriter(`${className} decoder`, weights, options, options.isFirst);
  const widths = [...dim_mult].reverse().map((multiple) => multiple * base);
  const doublesTime = [...temperal_downsample].reverse();

  const latent = g.floats('latent_sample', [1, z_dim, options.height, options.width]);
  const { latents_mean: mean, latents_std: deviation } = config;
  const unscaled = perChannel(g, 'latent_sample', latent, deviation, mean);
  let frames = [g.conv('post_quant_conv', unscaled, z_dim, { kernel: 1 })];
  frames = g.causal('decoder.conv_in', frames, widths[0]);
  frames = midBlock(g, 'decoder.mid_block', frames);
  widths.forEach((width, level) => {
    const path = `decoder.up_blocks.${level}`;
    const isLast = level === widths.length - 1;
    const before = frames;
    for (let block = 0; block <= num_res_blocks; block++) {
      frames = residualBlock(g, `${path}.resnets.${block}`, frames, width);
    }
    if (!isLast) {
      const name = is_residual ? `${path}.upsampler` : `${path}.upsamplers.0`;
      frames = upsampled(g, name, frames, is_residual ? width : width / 2, doublesTime[level]);
    }
    if (is_residual && !isLast) {
      const kept = before.map((some) => repeated(g, `${path}.avg_shortcut`, some, width, doublesTime[level]));
      frames = g.sums(`${path}/add`, frames, kept);
    }
  });
  const active = frames.map((frame) => channelNorm(g, 'decoder.norm_out', frame));
  const pictures = g
    .causal('decoder.conv_out', active, out_channels)
    .map((frame, n) => unpatched(g, `sample/${n}`, frame, config.patch_size ?? 1));
  g.finish('sample', pictures.length === 1 ? pictures[0] : g.concat('sample/frames', pictures, 0));
  return g.graph();
}

/**
 * Input `sample` [frames, 3, height, width] in [-1, 1], of one frame if it is the first, else of {@link framesPerLatent}; output
 * `latents` [1, z_dim, h, w], the mean, as sampling takes it. Beside them as in {@link buildDecoder}. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildEncoder(config: Config, weights: WeightIndex, options: Options): Graph {
  const { z_dim, num_res_blocks, is_residual, dim_mult, temperal_downsample, base_dim } = config;
  const g = new CausalWriter(`${className} encoder`, weights, options, options.isFirst);
  const count = options.isFirst ? 1 : framesPerLatent(config);

  const sample = g.floats('sample', [count, 3, options.height, options.width]);
  const each = g.arranged('sample/frames', [g.reshape('sample/all', sample, sample.dims)]);
  let frames = each.map((some, n) => patched(g, `sample/${n}`, some, config.patch_size ?? 1));
  frames = g.causal('encoder.conv_in', frames, base_dim);
  let block = 0;
  dim_mult.forEach((multiple, level) => {
    const width = multiple * base_dim;
    const isLast = level === dim_mult.length - 1;
    const before = frames;
    for (let n = 0; n < num_res_blocks; n++) {
      const path = is_residual ? `encoder.down_blocks.${level}.resnets.${n}` : `encoder.down_blocks.${block++}`;
      frames = residualBlock(g, path, frames, width);
    }
    const halvesTime = !isLast && temperal_downsample[level];
    if (!isLast) {
      const path = is_residual ? `encoder.down_blocks.${level}.downsampler` : `encoder.down_blocks.${block++}`;
      frames = downsampled(g, path, frames, width, halvesTime);
    }
    if (is_residual) {
      const path = `encoder.down_blocks.${level}`;
      const kept = averaged(g, `${path}.avg_shortcut`, before, width, isLast ? 1 : 2, halvesTime);
      frames = g.sums(`${path}/add`, frames, kept);
    }
  });
  frames = midBlock(g, 'encoder.mid_block', frames);
  const active = frames.map((frame) => channelNorm(g, 'encoder.norm_out', frame));
  const [last] = g.causal('encoder.conv_out', active, 2 * z_dim);
  const [mean] = g.split('latents/parts', g.conv('quant_conv', last, 2 * z_dim, { kernel: 1 }), [z_dim, z_dim], 1);
  const { latents_mean: shift, latents_std: deviation } = config;
  const inverse = deviation.map((one) => 1 / one);
  g.finish(
    'latents',
    perChannel(
      g,
      'latents',
      mean,
      inverse,
      shift.map((one, n) => -one * inverse[n]),
    ),
  );
  return g.graph();
}

/** Before the first frame of a video lies nothing. */
class CausalWriter extends FrameWriter {
  /** WanCausalConv3d: a convolution over each frame and the two before it, in space and time. */
  causal(path: string, frames: readonly Value[], out: number, kernel = 3): Value[] {
    const windows = Array.from({ length: countOf(frames) }, (_, n) => [n, n + 1, n + 2]);
    return this.#afterSeen(path, this.arranged(`${path}/given`, frames), 2, windows, out, kernel);
  }

  /** Over two frames each and the one before them. */
  halving(path: string, frames: readonly Value[], out: number): Value[] {
    const windows = Array.from({ length: countOf(frames) / 2 }, (_, n) => [2 * n, 2 * n + 1, 2 * n + 2]);
    return this.#afterSeen(path, frames, 1, windows, out, 1);
  }

  /** @param windows counted from the frames that the layer `path` saw before these */
  #afterSeen(
    path: string,
    frames: readonly Value[],
    most: 1 | 2,
    windows: readonly (readonly number[])[],
    out: number,
    kernel: number,
  ): Value[] {
    const seen = this.isFirst ? [] : this.seen(path, frames[0], most);
    const missing = most - seen.length;
    this.keep(path, [...seen, ...frames], most);
    const places = windows.map((window) => window.map((place) => Math.max(place - missing, NOTHING)));
    return this.overWindows(path, [...seen, ...frames], places, out, { kernel });
  }

  /** Names the results, when nothing is to be computed from them any more. */
  finish(name: string, result: Value): void {
    this.output(name, result);
    this.outputKept();
  }
}

/** WanRMS_norm over the channels, and the SiLU that follows it but in attention. */
function channelNorm(g: LayerWriter, path: string, x: Value, active = true): Value {
  const tokens = g.tokens(`${path}/tokens`, x);
  const weight = g.weight(`${path}.gamma`, [picture(x)[1]]);
  const normal = g.node(path, 'SimplifiedLayerNormalization', [tokens, weight], tokens.dims, {
    attributes: { axis: -1, epsilon: float(NORM_EPSILON) },
  });
  return g.untokens(`${path}/picture`, active ? g.silu(`${path}/silu`, normal) : normal, x);
}

function residualBlock(g: CausalWriter, path: string, frames: readonly Value[], out: number): Value[] {
  const normed = (norm: string, all: readonly Value[]) => all.map((frame) => channelNorm(g, `${path}.${norm}`, frame));
  const mid = g.causal(`${path}.conv1`, normed('norm1', frames), out);
  const changed = g.causal(`${path}.conv2`, normed('norm2', mid), out);
  const isNarrow = picture(frames[0])[1] !== out;
  const kept = isNarrow ? frames.map((frame) => g.conv(`${path}.conv_shortcut`, frame, out, { kernel: 1 })) : frames;
  return g.sums(`${path}/add`, changed, kept);
}

function midBlock(g: CausalWriter, path: string, frames: readonly Value[]): Value[] {
  const [, width] = picture(frames[0]);
  const first = residualBlock(g, `${path}.resnets.0`, frames, width);
  const seen = first.map((frame) => attention(g, `${path}.attentions.0`, frame));
  return residualBlock(g, `${path}.resnets.1`, seen, width);
}

/** Within each frame, of one head. */
function attention(g: LayerWriter, path: string, x: Value): Value {
  const [, width] = picture(x);
  const tokens = g.tokens(`${path}/tokens`, channelNorm(g, `${path}.norm`, x, false));
  const [q, k, value] = g.split(
    `${path}/parts`,
    g.linear(`${path}.to_qkv`, tokens, 3 * width),
    [width, width, width],
    1,
  );
  const mixed = g.linear(`${path}.proj`, g.attention(path, q, k, value, 1, { batch: picture(x)[0] }), width);
  return g.add(`${path}/add`, g.untokens(`${path}/picture`, mixed, x), x);
}

/** @param doublesTime whether each frame becomes two, which the first of a video does not */
function upsampled(
  g: CausalWriter,
  path: string,
  frames: readonly Value[],
  out: number,
  doublesTime: boolean,
): Value[] {
  const [, channels, height, width] = picture(frames[0]);
  const doubled =
    doublesTime && !g.isFirst
      ? g.causal(`${path}.time_conv`, frames, 2 * channels, 1).flatMap((both) => inTime(g, `${path}/frames`, both))
      : frames;
  return doubled.map((some) =>
    g.conv(`${path}.resample.1`, g.resize(`${path}/resize`, some, 2 * height, 2 * width), out),
  );
}

/** Frames with the channels of two, as twice as many. */
function inTime(g: CausalWriter, name: string, both: Value): Value[] {
  const [count, channels, height, width] = picture(both);
  const half = channels / 2;
  if (!g.isSmall(both, count)) {
    return g.apart([both]).flatMap((one) => g.split(name, one, [half, half], 1));
  }
  const pixels = g.reshape(`${name}/both`, g.tokens(`${name}/pixels`, both), [count, height * width, 2, half]);
  const each = g.reshape(`${name}/rows`, g.transpose(`${name}/each`, pixels, [0, 2, 1, 3]), [
    2 * count * height * width,
    half,
  ]);
  return [g.pictures(name, each, 2 * count, [height, width])];
}

function downsampled(
  g: CausalWriter,
  path: string,
  frames: readonly Value[],
  width: number,
  halvesTime: boolean,
): Value[] {
  const smaller = frames.map((frame) =>
    g.conv(`${path}.resample.1`, frame, width, { stride: 2, padding: [0, 0, 1, 1] }),
  );
  if (!halvesTime) {
    return smaller;
  }
  if (g.isFirst) {
    g.keep(`${path}.time_conv`, smaller, 1);
    return smaller;
  }
  return g.halving(`${path}.time_conv`, smaller, width);
}

/** DupUp3D: channels repeated until they are as many as the pixels, and frames, of the larger size. */
function repeated(g: CausalWriter, path: string, x: Value, out: number, doublesTime: boolean): Value {
  const [count, channels, height, width] = picture(x);
  const times = doublesTime ? 2 : 1;
  const pixels = height * width;
  const copies = (out * times * 4) / channels;
  const rows = count * channels;
  const more = g.expand(`${path}/repeat`, g.reshape(`${path}/one`, x, [rows, 1, pixels]), [rows, copies, pixels]);
  const byFrame = g.reshape(`${path}/times`, more, [count, out, times, 4 * pixels]);
  const each = times === 1 ? byFrame : g.transpose(`${path}/frames`, byFrame, [0, 2, 1, 3]);
  const all = g.reshape(`${path}/frame`, each, [count * times, 4 * out, height, width]);
  const kept = doublesTime && g.isFirst ? g.afterFirst(`${path}/last`, [all]) : [all];
  return g.pixelShuffle(`${path}/larger`, kept[0], 2);
}

/** AvgDown3D: means of the pixels, frames and channels that become one. */
function averaged(
  g: CausalWriter,
  path: string,
  frames: readonly Value[],
  out: number,
  side: 1 | 2,
  halvesTime: boolean,
): Value[] {
  const times = halvesTime ? 2 : 1;
  const [, channels, height, width] = picture(frames[0]);
  const [rows, columns] = [height / side, width / side];
  const all = [...(g.isFirst && halvesTime ? [null] : []), ...g.apart(frames)];
  return Array.from({ length: all.length / times }, (_, n) => {
    const group = all
      .slice(n * times, (n + 1) * times)
      .map((frame) => frame && g.pixelUnshuffle(`${path}/${n}/smaller`, frame, side));
    const turns = g.inTurn(`${path}/${n}`, group, side * side * rows * columns);
    const share = (channels * times * side * side) / out;
    const parts = g.reshape(`${path}/${n}/parts`, turns, [out, share, rows * columns]);
    const axes = g.constant([1]);
    const mean = g.node(`${path}/${n}/mean`, 'ReduceMean', [parts, axes], [out, 1, rows * columns], {
      type: parts.type,
    });
    return g.reshape(`${path}/${n}/picture`, mean, [1, out, rows, columns]);
  });
}
