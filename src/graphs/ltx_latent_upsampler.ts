/**
 * Doubles the sides of a video's latents between two passes of LTX-Video. Its norms are over all frames at once, so it takes a video whole; the
 * frames are a batch of pictures, and a convolution in space and time is one of pictures that have the channels of three frames.
 * Reference: diffusers/pipelines/ltx/modeling_latent_upsampler.py
 */
import * as v from 'valibot';
import { count, parseNetworkConfig } from './config.ts';
import { picture } from './elements.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'LTXLatentUpsamplerModel';

const GROUPS = 32;
const EPSILON = 1e-5;

export const configSchema = v.object({
  in_channels: count(128),
  mid_channels: v.pipe(count(512), v.multipleOf(GROUPS)),
  num_blocks_per_stage: count(4),
  dims: v.optional(v.picklist([2, 3]), 3),
  spatial_upsample: v.optional(v.literal(true), true),
  temporal_upsample: v.optional(v.literal(false), false),
});

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported`, for one that makes more frames, too */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** By how much it enlarges each side. */
export const FACTOR = 2;

export interface Options extends GraphOptions {
  /** Of the latents; `height` and `width` are those of one frame. */
  frames?: number;
}

/**
 * Input `latents` [1, in_channels, frames · height, width] as the autoencoder has them, frames below each other; output `larger`, the same with
 * twice the height and width. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { in_channels: channels, mid_channels: width, num_blocks_per_stage: blocks } = config;
  const { frames = 1, height: rows, width: columns } = options;
  const g = new Writer(className, weights, options, config.dims === 3);
  const latents = g.floats('latents', [1, channels, frames * rows, columns]);
  let x = g.batched('latents/frames', latents, frames);
  x = g.normed('initial_norm', g.convolved('initial_conv', x, width), 'silu');
  const stage = (name: string) => {
    for (let block = 0; block < blocks; block++) {
      x = g.block(`${name}.${block}`, x);
    }
  };
  stage('res_blocks');
  x = g.pixelShuffle('upsampler.1', g.conv('upsampler.0', x, FACTOR ** 2 * width), FACTOR);
  stage('post_upsample_res_blocks');
  g.output('larger', g.stacked('larger/stacked', g.convolved('final_conv', x, channels)));
  return g.graph();
}

class Writer extends LayerWriter {
  constructor(
    name: string,
    weights: WeightIndex,
    options: GraphOptions,
    /** Whether it looks at the frames before and after, and its norms are over all of them. */
    readonly seesFrames: boolean,
  ) {
    super(name, weights, options);
  }

  /** Frames that lie below each other, as a batch of pictures. */
  batched(name: string, x: Value, frames: number): Value {
    const [, channels, rows, width] = picture(x);
    const height = rows / frames;
    const each = this.reshape(`${name}/each`, x, [channels, frames, height * width]);
    return this.reshape(name, this.transpose(`${name}/turned`, each, [1, 0, 2]), [frames, channels, height, width]);
  }

  /** The way back from {@link batched}. */
  stacked(name: string, x: Value): Value {
    const [frames, channels, height, width] = picture(x);
    const each = this.reshape(`${name}/each`, x, [frames, channels, height * width]);
    return this.reshape(name, this.transpose(`${name}/turned`, each, [1, 0, 2]), [1, channels, frames * height, width]);
  }

  convolved(path: string, x: Value, out: number): Value {
    if (!this.seesFrames) {
      return this.conv(path, x, out);
    }
    const [frames, channels, height, width] = picture(x);
    const pixels = height * width;
    const none = this.fill(0, [1, channels, 1, pixels], 'f32');
    const around = this.concat(
      `${path}/around`,
      [none, this.reshape(`${path}/frames`, x, [frames, channels, 1, pixels]), none],
      0,
    );
    // The weight lies as that of a picture whose channels are each of three frames.
    const three = [0, 1, 2].map((first) => {
      const range = [first, first + frames, 0].map((value) => this.constant([value]));
      return this.node(`${path}/from.${first}`, 'Slice', [around, ...range], [frames, channels, 1, pixels], {
        type: x.type,
      });
    });
    const stacked = this.reshape(`${path}/stacked`, this.concat(`${path}/three`, three, 2), [
      frames,
      3 * channels,
      height,
      width,
    ]);
    return this.conv(path, stacked, out);
  }

  normed(path: string, x: Value, activation: 'silu' | 'none'): Value {
    const [frames] = picture(x);
    if (!this.seesFrames || frames === 1) {
      return this.groupNorm(path, x, GROUPS, EPSILON, activation);
    }
    const normal = this.groupNorm(path, this.stacked(`${path}/all`, x), GROUPS, EPSILON, activation);
    return this.batched(`${path}/frames`, normal, frames);
  }

  block(path: string, x: Value): Value {
    const [, width] = picture(x);
    const first = this.normed(`${path}.norm1`, this.convolved(`${path}.conv1`, x, width), 'silu');
    const second = this.normed(`${path}.norm2`, this.convolved(`${path}.conv2`, first, width), 'none');
    return this.silu(`${path}/silu`, this.add(`${path}/add`, second, x));
  }
}
