/**
 * The autoencoder of LTX-Video: videos to latents and back. Its decoder looks at frames before and after each, so it goes through a video by
 * stages, one for each size of its frames, and through each of them piece by piece: what a layer makes lags behind what it is given until the
 * video ends.
 * Reference: diffusers/models/autoencoders/autoencoder_kl_ltx.py
 */
import * as v from 'valibot';
import { count, counts, flag, parseNetworkConfig, real } from './config.ts';
import { picture } from './elements.ts';
import { patched, unpatched } from './frame_layers.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LtxWriter, activeNorm, resnet, resnets, timed } from './ltx_blocks.ts';
import { oneMore } from './modulation.ts';
import { size, type Value } from './onnx.ts';

export const className = 'AutoencoderKLLTXVideo';

/** Waves that say a time. */
export const WAVES = 256;
/** Of the logarithm of a variance. */
const LOG_VARIANCE = [-30, 20];

const SHRINKS = {
  conv: { time: 2, side: 2 },
  spatial: { time: 1, side: 2 },
  temporal: { time: 2, side: 1 },
  spatiotemporal: { time: 2, side: 2 },
} as const;
type Shrink = keyof typeof SHRINKS;

const flags = (fallback: boolean[]) => v.optional(v.array(v.boolean()), () => [...fallback]);
const none = v.array(v.literal(false));
const BLOCKS = ['LTXVideoDownBlock3D', 'LTXVideo095DownBlock3D'] as const;

export const configSchema = v.pipe(
  v.object({
    in_channels: v.optional(v.literal(3), 3),
    out_channels: v.optional(v.literal(3), 3),
    latent_channels: count(128),
    block_out_channels: counts([128, 256, 512, 512]),
    down_block_types: v.optional(v.array(v.picklist(BLOCKS)), () => Array.from({ length: 4 }, () => BLOCKS[0])),
    decoder_block_out_channels: counts([128, 256, 512, 512]),
    layers_per_block: counts([4, 3, 3, 3, 4]),
    decoder_layers_per_block: counts([4, 3, 3, 3, 4]),
    spatio_temporal_scaling: flags([true, true, true, false]),
    decoder_spatio_temporal_scaling: flags([true, true, true, false]),
    decoder_inject_noise: v.optional(none, () => [false, false, false, false, false]),
    downsample_type: v.optional(v.array(v.picklist(Object.keys(SHRINKS) as Shrink[])), () =>
      Array.from({ length: 4 }, (): Shrink => 'conv'),
    ),
    upsample_residual: flags([false, false, false, false]),
    upsample_factor: counts([1, 1, 1, 1]),
    timestep_conditioning: flag(false),
    patch_size: count(4),
    patch_size_t: v.optional(v.literal(1), 1),
    resnet_norm_eps: real(1e-6),
    scaling_factor: real(1),
    encoder_causal: v.optional(v.literal(true), true),
    decoder_causal: flag(false),
  }),
  v.check(({ down_block_types: types }) => new Set(types).size === 1, 'its down_block_types are of different kinds'),
  v.check(({ down_block_types, block_out_channels, ...config }) => {
    const blocks = downBlocks(down_block_types, block_out_channels);
    const lists = [config.spatio_temporal_scaling, config.downsample_type, down_block_types];
    return lists.every((list) => list.length >= blocks) && config.layers_per_block.length > blocks;
  }, 'its lists for the encoder differ in length'),
  v.check(
    ({ decoder_block_out_channels: widths, ...config }) =>
      [config.decoder_spatio_temporal_scaling, config.upsample_residual, config.upsample_factor].every(
        (list) => list.length === widths.length,
      ) && config.decoder_layers_per_block.length === widths.length + 1,
    'its lists for the decoder differ in length',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Blocks of the encoder; those of 0.9.5 name the width that they begin with, too. */
function downBlocks(types: readonly string[], widths: readonly number[]): number {
  return widths.length - (types.at(-1) === BLOCKS[1] ? 1 : 0);
}

/** Pixels per latent along one side. */
export function factorOf(config: Config): number {
  return config.patch_size * framesPerLatent(config);
}

/** Frames that each of the latents but the first stands for. */
export function framesPerLatent({ decoder_spatio_temporal_scaling: doubles }: Config): number {
  return 2 ** doubles.filter(Boolean).length;
}

/** A part of the decoder whose frames are of one size, but that those it gives may be doubled, in time and along each side. */
export interface Stage {
  /** Channels of the frames that it is given. */
  channels: number;
  /** Their size, in latents. */
  scale: number;
  doubles: boolean;
  /** Frames that it has to be given before it gives any. */
  reach: number;
}

/** The first joins the middle, and each of the others is a block; the last makes pictures. */
export function decoderStages(config: Config): Stage[] {
  const { latent_channels, decoder_causal: isCausal } = config;
  const blocks = upBlocks(config);
  const lag = (resnets: number) => (isCausal ? 0 : 2 * resnets);
  const one = isCausal ? 0 : 1;
  const layers = [...config.decoder_layers_per_block].reverse();
  const stages: Stage[] = [{ channels: latent_channels, scale: 1, doubles: false, reach: one + lag(layers[0]) + 1 }];
  let scale = 1;
  let channels = blocks[0].mid;
  blocks.forEach(({ out, doubles, layers: resnets }, n) => {
    const before = channels === out * (doubles ? blocks[n].factor : 1) ? 0 : lag(1);
    const after = lag(resnets) + (n === blocks.length - 1 ? one : 0);
    const rate = doubles ? 2 : 1;
    stages.push({ channels, scale, doubles, reach: before + (doubles ? one : 0) + Math.ceil(after / rate) + 1 });
    scale *= rate;
    channels = out;
  });
  return stages;
}

interface UpBlock {
  /** Width of the middle that comes before all of them. */
  mid: number;
  out: number;
  factor: number;
  doubles: boolean;
  keeps: boolean;
  layers: number;
}

function upBlocks(config: Config): UpBlock[] {
  const reversed = <T>(list: readonly T[]) => [...list].reverse();
  const widths = reversed(config.decoder_block_out_channels);
  const factors = reversed(config.upsample_factor);
  const doubles = reversed(config.decoder_spatio_temporal_scaling);
  const keeps = reversed(config.upsample_residual);
  const layers = reversed(config.decoder_layers_per_block).slice(1);
  return widths.map((width, n) => ({
    mid: widths[0],
    out: width / factors[n],
    factor: factors[n],
    doubles: doubles[n],
    keeps: keeps[n],
    layers: layers[n],
  }));
}

export interface Piece {
  /** Frames that are given. */
  frames: number;
  /** Whether it is the beginning of the video, and the end. */
  isFirst: boolean;
  isLast: boolean;
}

/** Of a piece that is not described, one frame that is a video of its own. */
export interface DecoderOptions extends GraphOptions, Partial<Piece> {
  /** Which of {@link decoderStages}; absent = the first. `height` and `width` are those of its frames. */
  stage?: number;
}

/**
 * One stage of the decoder for one piece. Inputs `frame.0` and so on, [1, channels, height, width], of the first stage as sampling leaves them;
 * where the decoder is told how much noise there is, `time_proj` [1, {@link WAVES}] of a thousand times that, and the first stage is given
 * `noise.0` and so on like its frames, times the share of the noise, and `kept_share` [1], that of the latents. Outputs `made.0` and so on, of the
 * last stage pictures around [-1, 1]. Beside them as in `frame_layers.ts` what was seen and is kept. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: DecoderOptions): Graph {
  const { stage = 0, frames: given = 1, height, width, isFirst = true, isLast = true } = options;
  const { timestep_conditioning: isTimed, decoder_causal: isCausal, resnet_norm_eps: epsilon } = config;
  const stages = decoderStages(config);
  const { channels } = stages[stage];
  const g = new LtxWriter(`${className} decoder`, weights, options, { isFirst, isLast, isCausal });
  const dims = [1, channels, height, width];
  const inputs = Array.from({ length: given }, (_, n) => g.floats(`frame.${n}`, dims));
  const waves = isTimed ? g.floats('time_proj', [1, WAVES]) : null;
  let frames: Value[];
  if (stage === 0) {
    const widest = upBlocks(config)[0].mid;
    frames = g.convolved('decoder.conv_in', startOf(g, inputs, config), widest);
    frames = resnets(g, 'decoder.mid_block', frames, epsilon, config.decoder_layers_per_block.at(-1) as number, waves);
  } else {
    frames = upBlock(g, `decoder.up_blocks.${stage - 1}`, inputs, config, upBlocks(config)[stage - 1], waves);
  }
  const made = stage < stages.length - 1 ? frames : endOf(g, frames, config, waves);
  made
    .flatMap((some, n) => {
      const [count] = some.dims;
      return g.split(`made/${n}`, some, ones(count), 0);
    })
    .forEach((frame, n) => {
      g.output(`made.${n}`, frame);
    });
  g.outputKept();
  return g.graph();
}

export interface EncoderOptions extends GraphOptions {
  /** 1 more than a multiple of {@link framesPerLatent}; absent = 1. */
  frames?: number;
}

/**
 * Inputs `sample` [frames, 3, height, width] in [-1, 1] and `noise` [1, latent_channels, latents · h, w], standard normal; output `latents`, like
 * the noise: drawn from the posterior, as sampling takes them. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildEncoder(config: Config, weights: WeightIndex, options: EncoderOptions): Graph {
  const { latent_channels, block_out_channels: widths, layers_per_block: layers, down_block_types: types } = config;
  const { frames: given = 1, height, width } = options;
  const { resnet_norm_eps: epsilon } = config;
  const whole = { isFirst: true, isLast: true, isCausal: config.encoder_causal };
  const g = new LtxWriter(`${className} encoder`, weights, options, whole);
  const isNewer = types.at(-1) === BLOCKS[1];

  const sample = g.floats('sample', [given, 3, height, width]);
  const each = g.arranged('sample/frames', [g.reshape('sample/all', sample, sample.dims)]);
  let frames = each.map((some, n) => patched(g, `sample/${n}`, some, config.patch_size));
  frames = g.convolved('encoder.conv_in', frames, widths[0]);
  for (let block = 0; block < downBlocks(types, widths); block++) {
    const path = `encoder.down_blocks.${block}`;
    const out = widths[Math.min(block + 1, widths.length - 1)];
    frames = resnets(g, path, frames, epsilon, layers[block], null);
    if (config.spatio_temporal_scaling[block]) {
      const kind = isNewer ? config.downsample_type[block] : 'conv';
      frames = downsampled(g, `${path}.downsamplers.0`, frames, out, kind);
    }
    if (!isNewer && picture(frames[0])[1] !== out) {
      frames = resnet(g, `${path}.conv_out`, frames, out, epsilon, null);
    }
  }
  frames = resnets(g, 'encoder.mid_block', frames, epsilon, layers.at(-1) as number, null);
  const active = frames.map((frame) => activeNorm(g, 'encoder.norm_out', frame, null));
  const moments = g.apart(g.convolved('encoder.conv_out', active, latent_channels + 1));

  const [, , rows, columns] = picture(moments[0]);
  const noise = g.floats('noise', [1, latent_channels, moments.length * rows, columns]);
  const noises = g.split(
    'noise/frames',
    noise,
    moments.map(() => rows),
    2,
  );
  const mean = g.reshape('latents/mean', g.weight('latents_mean', [latent_channels]), [1, latent_channels, 1, 1]);
  const deviation = g.reshape('latents/std', g.weight('latents_std', [latent_channels]), [1, latent_channels, 1, 1]);
  const latents = moments.map((moment, n) => {
    const [middle, logarithm] = g.split(`latents/${n}/parts`, moment, [latent_channels, 1], 1);
    const limits = LOG_VARIANCE.map((limit) => g.reshape(`latents/${n}/limit`, g.constant([limit], 'f32'), []));
    const clipped = g.node(`latents/${n}/clip`, 'Clip', [logarithm, ...limits], logarithm.dims, { type: 'f32' });
    const spread = g.unary(`latents/${n}/spread`, 'Exp', g.scaleShift(`latents/${n}/half`, clipped, 0.5, 0));
    const drawn = g.add(`latents/${n}/drawn`, middle, g.binary(`latents/${n}/noise`, 'Mul', noises[n], spread));
    return g.binary(`latents/${n}`, 'Div', g.binary(`latents/${n}/centred`, 'Sub', drawn, mean), deviation);
  });
  g.output('latents', latents.length === 1 ? latents[0] : g.concat('latents/frames', latents, 2));
  g.dropUnread();
  return g.graph();
}

/** The latents as they were before they were scaled, with what noise the decoder is told of. */
function startOf(g: LtxWriter, frames: readonly Value[], config: Config): Value[] {
  const { latent_channels: channels, scaling_factor, timestep_conditioning } = config;
  const column = (name: string) => g.reshape(`${name}/column`, g.weight(name, [channels]), [1, channels, 1, 1]);
  const deviation = column('latents_std');
  const scale = scaling_factor === 1 ? deviation : g.scaleShift('latents_std/scale', deviation, 1 / scaling_factor, 0);
  const share = timestep_conditioning ? g.floats('kept_share', [1]) : null;
  const noises = share && frames.map((frame, n) => g.floats(`noise.${n}`, frame.dims));
  const all = g.arranged('frame/all', frames);
  const wide = all.map((some, n) =>
    g.add(`frame.${n}/shifted`, g.binary(`frame.${n}/scaled`, 'Mul', some, scale), column('latents_mean')),
  );
  return share && noises
    ? g.sums(
        'frame/noisy',
        wide.map((some, n) => g.binary(`frame.${n}/share`, 'Mul', some, share)),
        noises,
      )
    : wide;
}

/** The last norm, and the pictures that become of what it gives. */
function endOf(g: LtxWriter, frames: readonly Value[], config: Config, waves: Value | null): Value[] {
  const [, width] = picture(frames[0]);
  const sets = waves ? timed(g, 'decoder', waves, width, 2) : null;
  const [shift, scale] = sets ?? [];
  const by = sets && { shift, scale: oneMore(g, 'decoder/scale', scale) };
  const active = frames.map((frame) => activeNorm(g, 'decoder.norm_out', frame, by));
  return g
    .convolved('decoder.conv_out', active, 3 * config.patch_size ** 2)
    .map((frame, n) => unpatched(g, `sample/${n}`, frame, config.patch_size));
}

function upBlock(
  g: LtxWriter,
  path: string,
  given: readonly Value[],
  config: Config,
  { out, factor, doubles, keeps, layers }: UpBlock,
  waves: Value | null,
): Value[] {
  let frames: readonly Value[] = given;
  const before = doubles ? out * factor : out;
  if (picture(frames[0])[1] !== before) {
    frames = resnet(g, `${path}.conv_in`, frames, before, config.resnet_norm_eps, null);
  }
  if (doubles) {
    frames = upsampled(g, `${path}.upsamplers.0`, frames, factor, keeps);
  }
  return resnets(g, path, frames, config.resnet_norm_eps, layers, waves);
}

/** LTXVideoUpsampler3d: twice as many frames, but for the first of a video, of twice the sides. */
function upsampled(g: LtxWriter, path: string, frames: readonly Value[], factor: number, keeps: boolean): Value[] {
  const [, channels] = picture(frames[0]);
  const inTime = (name: string, all: readonly Value[]) => {
    const each = all.flatMap((some) => doubled(g, name, some));
    return g.isFirst ? g.afterFirst(`${name}/but_first`, each) : each;
  };
  const larger = inTime(`${path}/larger`, g.convolved(`${path}.conv`, frames, (8 * channels) / factor));
  if (!keeps) {
    return larger;
  }
  const delayed = g.alike(`${path}/shortcut/alike`, g.delayed(`${path}/shortcut`, frames, 1), larger);
  const kept = inTime(`${path}/kept_size`, delayed).map((some) =>
    g.concat(
      `${path}/repeated`,
      Array.from({ length: 8 / factor }, () => some),
      1,
    ),
  );
  return g.sums(`${path}/add`, larger, kept);
}

/** Eight channels each, which are of two frames, rows and columns, in this order, as two larger frames. */
function doubled(g: LtxWriter, name: string, x: Value): Value[] {
  const [count, channels, height, width] = picture(x);
  if (!g.isSmall(x, count)) {
    return g.apart([x]).flatMap((frame) => {
      const times = g.reshape(`${name}/times`, frame, [channels / 8, 2, 4 * height * width]);
      return g
        .split(`${name}/frames`, times, [1, 1], 1)
        .map((one) => g.pixelShuffle(name, g.reshape(`${name}/frame`, one, [1, channels / 2, height, width]), 2));
    });
  }
  const cells = g.reshape(`${name}/cells`, g.tokens(`${name}/pixels`, x), [
    count,
    height,
    width,
    channels / 8,
    2,
    2,
    2,
  ]);
  const turned = g.transpose(`${name}/turned`, cells, [0, 4, 1, 5, 2, 6, 3]);
  const pixels = g.reshape(`${name}/rows`, turned, [2 * count * 4 * height * width, channels / 8]);
  return [g.pictures(name, pixels, 2 * count, [2 * height, 2 * width])];
}

function downsampled(g: LtxWriter, path: string, given: readonly Value[], out: number, kind: Shrink): Value[] {
  if (kind === 'conv') {
    return g.convolved(path, given, picture(given[0])[1], 2);
  }
  const { time, side } = SHRINKS[kind];
  const frames = g.apart(given);
  const all = [...frames.slice(0, time - 1), ...frames];
  const joined = (name: string, list: readonly Value[]) =>
    Array.from({ length: list.length / time }, (_, n) =>
      smaller(g, `${name}/${n}`, list.slice(n * time, (n + 1) * time), side),
    );
  const changed = joined(`${path}/smaller`, g.apart(g.convolved(`${path}.conv`, all, out / (time * side * side))));
  const kept = joined(`${path}/shortcut`, all);
  return changed.map((frame, n) => g.add(`${path}/add`, frame, means(g, `${path}/means/${n}`, kept[n], out)));
}

/** Frames, rows and columns that become one, as channels, in this order. */
function smaller(g: LtxWriter, name: string, group: readonly Value[], side: number): Value {
  const cells = group.map((frame) => g.pixelUnshuffle(`${name}/cells`, frame, side));
  const [, , height, width] = picture(cells[0]);
  const turns = g.inTurn(name, cells, side * side * height * width);
  return g.reshape(`${name}/picture`, turns, [1, size(turns.dims) / (height * width), height, width]);
}

/** Channels that follow one another, as their mean. */
function means(g: LtxWriter, name: string, x: Value, out: number): Value {
  const [, channels, height, width] = picture(x);
  const parts = g.reshape(`${name}/parts`, x, [out, channels / out, height * width]);
  const mean = g.node(`${name}/mean`, 'ReduceMean', [parts, g.constant([1])], [out, 1, height * width], {
    type: parts.type,
  });
  return g.reshape(`${name}/picture`, mean, [1, out, height, width]);
}

function ones(length: number): number[] {
  return Array.from({ length }, () => 1);
}
