/**
 * A ControlNet of Stable Diffusion 1, 2 and XL: a copy of the UNet's down blocks and middle that sees a control picture; its results are
 * added to the UNet's skip connections and middle.
 * Reference: diffusers/models/controlnets/controlnet.py
 */
import * as v from 'valibot';
import { counts, only, parseNetworkConfig, unused } from './config.ts';
import { fused, kindEmbedding, type Union } from './controlnet_union.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';
import {
  addedEmbedding,
  configSchema as unetSchema,
  encoder,
  encoderProjections,
  hiddenStates,
  residualNames,
  timeEmbedding,
  type Config as UNetConfig,
} from './unet2d_condition.ts';

export const className = 'ControlNetModel';

/** Tokens per prompt unless the options say otherwise. */
const SEQUENCE = 77;

const CHANNELS = 3;

const ownSchema = v.object({
  conditioning_channels: only([CHANNELS], CHANNELS),
  conditioning_embedding_out_channels: counts([16, 32, 96, 256]),
  controlnet_conditioning_channel_order: only(['rgb'], 'rgb'),
  global_pool_conditions: unused(false),
  class_embed_type: unused(),
});

/** The config of the half of a UNet that it consists of; the other half's keys are ignored. */
export type Config = UNetConfig & v.InferOutput<typeof ownSchema> & { union?: Union };

/** @throws StudioError `checkpoint_unsupported` */
export function parseConfig(json: Record<string, unknown>): Config {
  const downs = Array.isArray(json.down_block_types) ? json.down_block_types : undefined;
  const ups = downs && { up_block_types: downs.map(() => 'UpBlock2D') };
  return {
    ...parseNetworkConfig(className, unetSchema, { ...json, ...ups }),
    ...parseNetworkConfig(className, ownSchema, json),
  };
}

/** Pixels of the control picture per latent, along one side. */
export function factorOf({ conditioning_embedding_out_channels: widths }: Config): number {
  return 2 ** (widths.length - 1);
}

/** Number of the UNet's skip connections that it adds to. */
export function skipsOf({ down_block_types: types, layers_per_block: layers }: Config): number {
  const inBlocks = types.reduce((sum, _, index) => sum + (Array.isArray(layers) ? layers[index] : layers), 0);
  return 1 + inBlocks + types.length - 1;
}

/**
 * The part that depends on the control picture alone and is the same at every step. Input `controlnet_cond` [1, 3, factor·height, factor·width] in
 * [0, 1]; output `hint` [1, block_out_channels[0], height, width]. Both float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildHint(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const g = new LayerWriter(`${className} hint`, weights, options);
  const path = 'controlnet_cond_embedding';
  const widths = config.conditioning_embedding_out_channels;
  const factor = factorOf(config);
  const convolved = (name: string, x: Value, out: number, stride: number) =>
    g.silu(`${name}/silu`, g.conv(name, x, out, { stride, padding: 1 }));
  let hidden = g.floats('controlnet_cond', [1, CHANNELS, factor * options.height, factor * options.width]);
  hidden = convolved(`${path}.conv_in`, hidden, widths[0], 1);
  widths.slice(1).forEach((width, index) => {
    hidden = convolved(`${path}.blocks.${2 * index}`, hidden, widths[index], 1);
    hidden = convolved(`${path}.blocks.${2 * index + 1}`, hidden, width, 2);
  });
  g.output('hint', g.conv(`${path}.conv_out`, hidden, config.block_out_channels[0]));
  return g.graph();
}

/**
 * Inputs `sample` [batch, in_channels, height, width], `time_proj` [1, block_out_channels[0]], `hint` as of {@link buildHint}, and the
 * outputs of {@link buildContext}; of a union `control_kind` [1, kinds], 1 for the one and 0 for the others; outputs named by {@link residualNames}, shaped like what they are added to. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { batch, height, width, sequence = SEQUENCE, dtype } = options;
  const g = new LayerWriter(className, weights, options);
  const [first] = config.block_out_channels;
  const sample = g.input('sample', 'float32', [batch, config.in_channels, height, width]);
  const time = timeEmbedding(g, config, true);
  const hint = g.floats('hint', [1, first, height, width]);
  const latents = g.conv('conv_in', g.cast('sample/cast', sample, dtype), first);
  const start = config.union ? fused(g, config.union, latents, hint) : g.add('conv_in/hint', latents, hint);
  const { hidden, skips } = encoder(g, config, start, { config, time, text: { sequence, states: null } });
  const names = residualNames(skips.length);
  skips.forEach((skip, index) => {
    g.output(names[index], g.conv(`controlnet_down_blocks.${index}`, skip, skip.dims[1], { kernel: 1 }));
  });
  g.output(names[skips.length], g.conv('controlnet_mid_block', hidden, hidden.dims[1], { kernel: 1 }));
  return g.graph();
}

/**
 * The part that depends on text, sizes and the kind of picture alone, like the UNet's own `buildContext`; of a union with `control_time` of
 * `kindProjection`.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildContext(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { sequence = SEQUENCE } = options;
  const g = new LayerWriter(`${className} context`, weights, options);
  encoderProjections(g, config, { sequence, states: hiddenStates(g, config, sequence) });
  if (config.addition_embed_type !== null) {
    const added = addedEmbedding(g, config);
    g.output(
      'added_embedding',
      config.union ? g.add('added_embedding/kind', added, kindEmbedding(g, config, config.union)) : added,
    );
  }
  return g.graph();
}
