/**
 * The UNet's blocks; a ControlNet has the down blocks and the middle.
 * Reference: diffusers/models/unets/unet_2d_blocks.py
 */
import type { Text, TransformerOptions } from './attention.ts';
import { transformer2d } from './attention.ts';
import type { LayerWriter } from './layers.ts';
import { picture } from './elements.ts';
import { motionModule } from './motion_module.ts';
import type { Value } from './onnx.ts';
import { downsample, resnetBlock, upsample } from './resnet.ts';

export const DOWN_BLOCKS = ['DownBlock2D', 'CrossAttnDownBlock2D'] as const;
export const MID_BLOCKS = ['UNetMidBlock2DCrossAttn', 'UNetMidBlock2D'] as const;
export const UP_BLOCKS = ['UpBlock2D', 'CrossAttnUpBlock2D'] as const;

/** The parts of the network's configuration that apply to every block. */
export interface BlockConfig {
  norm_num_groups: number;
  norm_eps: number;
  downsample_padding: number;
  upcast_attention: boolean;
}

/** Motion modules, after each layer of the network's blocks, which turn a batch of pictures into the frames of one video. */
export interface Motion {
  /** Heads of each level, from the largest picture to the smallest. */
  heads: number[];
  /** Layers of each module. */
  layers: number;
  /** Maximum number of frames that they have positions for. */
  longest: number;
  /** Whether the middle block has one. */
  inMiddle: boolean;
}

/** What the blocks share. */
export interface Conditions {
  config: BlockConfig;
  motion?: Motion | undefined;
  /** silu(time embedding) [1 or batch, 4·block_out_channels[0]]. */
  time: Value;
  text: Text;
}

/** The values of the config's lists for one block. */
export interface Block {
  channels: number;
  layers: number;
  heads: number;
  /** Of each of its transformers. */
  transformerLayers: number | number[];
  onlyCross: boolean;
}

function resnet(g: LayerWriter, path: string, x: Value, out: number, { config, time }: Conditions): Value {
  return resnetBlock(g, path, x, { out, groups: config.norm_num_groups, epsilon: config.norm_eps, time });
}

/** The module at `path`, or x itself if the network makes pictures. @param level counted from the largest picture */
function moved(g: LayerWriter, path: string, x: Value, level: number, { config, motion }: Conditions): Value {
  return motion
    ? motionModule(g, path, x, { ...motion, heads: motion.heads[level], groups: config.norm_num_groups })
    : x;
}

/** @param layer of the block */
function transformer(
  g: LayerWriter,
  path: string,
  x: Value,
  block: Block,
  layer: number,
  { config, text }: Conditions,
): Value {
  return transformer2d(g, path, x, transformerOptions(g, block, layer, config, text));
}

export function transformerOptions(
  g: LayerWriter,
  { transformerLayers, ...block }: Block,
  layer: number,
  config: BlockConfig,
  text: Text,
): TransformerOptions {
  return {
    layers: Array.isArray(transformerLayers) ? transformerLayers[layer] : transformerLayers,
    heads: block.heads,
    groups: config.norm_num_groups,
    text,
    onlyCross: block.onlyCross,
    upcast: config.upcast_attention && g.options.dtype === 'f16',
  };
}

/**
 * DownBlock2D and CrossAttnDownBlock2D. Pushes what the up blocks will need onto `skips`.
 * @param isLast whether the picture keeps its size
 */
export function downBlock(
  g: LayerWriter,
  index: number,
  type: (typeof DOWN_BLOCKS)[number],
  x: Value,
  block: Block,
  conditions: Conditions,
  skips: Value[],
  isLast: boolean,
): Value {
  const path = `down_blocks.${index}`;
  let hidden = x;
  for (let layer = 0; layer < block.layers; layer++) {
    hidden = resnet(g, `${path}.resnets.${layer}`, hidden, block.channels, conditions);
    if (type === 'CrossAttnDownBlock2D') {
      hidden = transformer(g, `${path}.attentions.${layer}`, hidden, block, layer, conditions);
    }
    hidden = moved(g, `${path}.motion_modules.${layer}`, hidden, index, conditions);
    skips.push(hidden);
  }
  if (!isLast) {
    hidden = downsample(g, `${path}.downsamplers.0`, hidden, conditions.config.downsample_padding);
    skips.push(hidden);
  }
  return hidden;
}

/** UNetMidBlock2DCrossAttn, which always has self-attention; UNetMidBlock2D, here a single residual block; or none. */
export function midBlock(
  g: LayerWriter,
  type: (typeof MID_BLOCKS)[number] | null,
  x: Value,
  block: Block,
  conditions: Conditions,
): Value {
  if (type === null) {
    return x;
  }
  let hidden = resnet(g, 'mid_block.resnets.0', x, block.channels, conditions);
  if (type === 'UNetMidBlock2D') {
    return hidden;
  }
  hidden = transformer(g, 'mid_block.attentions.0', hidden, { ...block, onlyCross: false }, 0, conditions);
  if (conditions.motion?.inMiddle) {
    hidden = moved(g, 'mid_block.motion_modules.0', hidden, conditions.motion.heads.length - 1, conditions);
  }
  return resnet(g, 'mid_block.resnets.1', hidden, block.channels, conditions);
}

/** UpBlock2D and CrossAttnUpBlock2D. Pops its skip connections off `skips`. */
export function upBlock(
  g: LayerWriter,
  index: number,
  type: (typeof UP_BLOCKS)[number],
  x: Value,
  block: Block,
  conditions: Conditions,
  skips: Value[],
): Value {
  const path = `up_blocks.${index}`;
  const level = (conditions.motion?.heads.length ?? 0) - 1 - index;
  let hidden = x;
  for (let layer = 0; layer < block.layers + 1; layer++) {
    hidden = g.concat(`${path}.resnets.${layer}/concat`, [hidden, skips.pop() as Value], 1);
    hidden = resnet(g, `${path}.resnets.${layer}`, hidden, block.channels, conditions);
    if (type === 'CrossAttnUpBlock2D') {
      hidden = transformer(g, `${path}.attentions.${layer}`, hidden, block, layer, conditions);
    }
    hidden = moved(g, `${path}.motion_modules.${layer}`, hidden, level, conditions);
  }
  const next = skips.at(-1);
  if (next) {
    // Odd sizes were rounded up on the way down; the next skip connection says what they were.
    const [, , height, width] = picture(next);
    hidden = upsample(g, `${path}.upsamplers.0`, hidden, [height, width]);
  }
  return hidden;
}
