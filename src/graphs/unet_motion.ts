/**
 * AnimateDiff's UNet: that of Stable Diffusion, with modules between its layers that join the frames of a video. Its tensors are all in one
 * place, or the modules' are in a separate motion adapter under the same names.
 * Reference: diffusers/models/unets/unet_motion_model.py
 */
import * as v from 'valibot';
import { count, each, flag, only, parseNetworkConfig, perBlock, unused } from './config.ts';
import type { Motion } from './unet2d_blocks.ts';
import * as unet2d from './unet2d_condition.ts';

export const className = 'UNetMotionModel';
export const adapterClassName = 'MotionAdapter';

const heads = v.optional(perBlock(v.pipe(v.number(), v.integer(), v.minValue(1))), 8);

/** The modules' keys; the blocks' are Stable Diffusion's under other names. */
const configSchema = v.pipe(
  v.looseObject({
    block_out_channels: v.optional(v.array(v.number()), () => [320, 640, 1280, 1280]),
    motion_max_seq_length: count(32),
    motion_num_attention_heads: heads,
    reverse_motion_num_attention_heads: unused(),
    temporal_transformer_layers_per_block: count(1),
    reverse_temporal_transformer_layers_per_block: unused(),
    temporal_transformer_layers_per_mid_block: count(1),
    transformer_layers_per_mid_block: unused(1),
    use_motion_mid_block: flag(true),
    mid_block_layers: only([1], 1),
  }),
  v.check(
    (config) => headsFit(config.motion_num_attention_heads, config.block_out_channels),
    'its motion_num_attention_heads do not divide its block_out_channels',
  ),
  v.check(
    (config) => config.temporal_transformer_layers_per_mid_block === config.temporal_transformer_layers_per_block,
    'the layers of its middle module are others than those of the blocks',
  ),
);

const adapterSchema = v.pipe(
  v.object({
    block_out_channels: v.optional(v.array(v.number()), () => [320, 640, 1280, 1280]),
    motion_layers_per_block: count(2),
    motion_transformer_layers_per_block: count(1),
    motion_mid_block_layers_per_block: only([1], 1),
    motion_transformer_layers_per_mid_block: count(1),
    motion_num_attention_heads: heads,
    motion_norm_num_groups: count(32),
    motion_max_seq_length: count(32),
    use_motion_mid_block: flag(true),
    /** A network that takes pictures as input (PIA). */
    conv_in_channels: unused(),
  }),
  v.check(
    (config) => headsFit(config.motion_num_attention_heads, config.block_out_channels),
    'its motion_num_attention_heads do not divide its block_out_channels',
  ),
);

export interface Config {
  unet: unet2d.Config;
  motion: Motion;
}

/** @throws StudioError `checkpoint_unsupported` */
export function parseConfig(json: unknown): Config {
  const { block_out_channels: widths, ...config } = parseNetworkConfig(className, configSchema, json);
  const flat = (types: unknown) =>
    Array.isArray(types) ? types.map((type) => String(type).replace(/Motion$/, '2D')) : types;
  return {
    unet: unet2d.parseConfig({
      ...config,
      block_out_channels: widths,
      ...('down_block_types' in config && { down_block_types: flat(config.down_block_types) }),
      ...('up_block_types' in config && { up_block_types: flat(config.up_block_types) }),
      attention_head_dim: config.num_attention_heads ?? 8,
    }),
    motion: {
      heads: each(config.motion_num_attention_heads, widths.length),
      layers: config.temporal_transformer_layers_per_block,
      longest: config.motion_max_seq_length,
      inMiddle: config.use_motion_mid_block,
    },
  };
}

/**
 * The modules of an adapter for this UNet.
 * @throws StudioError `checkpoint_unsupported`, also for an adapter for another kind of UNet
 */
export function parseAdapterConfig(json: unknown, unet: unet2d.Config): Motion {
  const widths = unet.block_out_channels;
  const schema = v.pipe(
    adapterSchema,
    v.check(
      (config) =>
        config.block_out_channels.join() === widths.join() &&
        config.motion_norm_num_groups === unet.norm_num_groups &&
        each(unet.layers_per_block, widths.length).every((layers) => layers === config.motion_layers_per_block),
      `it was made for a UNet of other widths and layers (${widths.join(', ')} are those of this one)`,
    ),
  );
  const config = parseNetworkConfig(adapterClassName, schema, json);
  return {
    heads: each(config.motion_num_attention_heads, widths.length),
    layers: config.motion_transformer_layers_per_block,
    longest: config.motion_max_seq_length,
    inMiddle: config.use_motion_mid_block,
  };
}

function headsFit(all: number | number[], widths: number[]): boolean {
  const list = each(all, widths.length);
  return list.length === widths.length && widths.every((width, level) => width % list[level] === 0);
}
