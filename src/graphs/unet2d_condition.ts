/**
 * The UNet of Stable Diffusion 1, 2 and XL, their inpainting versions, LCM, and smaller ones distilled from them.
 * Reference: diffusers/models/unets/unet_2d_condition.py, unet_2d_blocks.py
 */
import * as v from 'valibot';
import { textProjections, type Text } from './attention.ts';
import { count, counts, divides, each, flag, only, parseNetworkConfig, perBlock, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';
import {
  DOWN_BLOCKS,
  MID_BLOCKS,
  UP_BLOCKS,
  downBlock,
  midBlock,
  transformerOptions,
  upBlock,
  type Block,
  type Conditions,
  type Motion,
} from './unet2d_blocks.ts';

export const className = 'UNet2DConditionModel';

/** Number of values in Stable Diffusion XL's size conditioning: two each for original size, crop and target size. */
export const SIZE_IDS = 6;

/** Tokens per prompt unless the options say otherwise. */
const SEQUENCE = 77;

const size = v.pipe(v.number(), v.integer(), v.minValue(1));
/** Layers of one transformer; a block may have none. */
const depth = v.pipe(v.number(), v.integer(), v.minValue(0));

export const configSchema = v.pipe(
  v.object({
    in_channels: count(4),
    out_channels: count(4),
    center_input_sample: flag(false),
    flip_sin_to_cos: flag(true),
    freq_shift: real(0),
    down_block_types: v.optional(v.array(v.picklist(DOWN_BLOCKS)), () => [
      'CrossAttnDownBlock2D' as const,
      'CrossAttnDownBlock2D' as const,
      'CrossAttnDownBlock2D' as const,
      'DownBlock2D' as const,
    ]),
    /** Null = the network has no middle. */
    mid_block_type: v.optional(v.nullable(v.picklist(MID_BLOCKS)), 'UNetMidBlock2DCrossAttn'),
    up_block_types: v.optional(v.array(v.picklist(UP_BLOCKS)), () => [
      'UpBlock2D' as const,
      'CrossAttnUpBlock2D' as const,
      'CrossAttnUpBlock2D' as const,
      'CrossAttnUpBlock2D' as const,
    ]),
    only_cross_attention: v.optional(perBlock(v.boolean()), false),
    block_out_channels: counts([320, 640, 1280, 1280]),
    layers_per_block: v.optional(perBlock(size), 2),
    downsample_padding: v.optional(v.picklist([0, 1]), 1),
    mid_block_scale_factor: only([1], 1),
    act_fn: only(['silu', 'swish'], 'silu'),
    norm_num_groups: count(32),
    norm_eps: real(1e-5),
    cross_attention_dim: v.optional(perBlock(size), 1280),
    transformer_layers_per_block: v.optional(perBlock(perBlock(depth)), 1),
    attention_head_dim: v.optional(perBlock(size), 8),
    num_attention_heads: v.optional(v.nullable(perBlock(size)), null),
    use_linear_projection: flag(false),
    upcast_attention: flag(false),
    conv_in_kernel: v.optional(v.picklist([1, 3, 5, 7]), 3),
    conv_out_kernel: v.optional(v.picklist([1, 3, 5, 7]), 3),
    resnet_time_scale_shift: only(['default'], 'default'),
    time_embedding_type: only(['positional'], 'positional'),
    resnet_out_scale_factor: only([1], 1),
    attention_type: only(['default'], 'default'),
    /** Of the up blocks, if they differ from the down blocks. */
    reverse_transformer_layers_per_block: v.optional(v.nullable(v.array(perBlock(depth))), null),
    encoder_hid_dim: unused(),
    encoder_hid_dim_type: unused(),
    dual_cross_attention: unused(false),
    class_embed_type: unused(),
    num_class_embeds: unused(),
    addition_embed_type: v.optional(v.nullable(v.picklist(['text_time'])), null),
    addition_time_embed_dim: v.optional(v.nullable(size), null),
    projection_class_embeddings_input_dim: v.optional(v.nullable(size), null),
    resnet_skip_time_act: unused(false),
    time_embedding_dim: unused(),
    time_embedding_act_fn: unused(),
    timestep_post_act: unused(),
    /** Width of the guidance scale's embedding; null = no such input. */
    time_cond_proj_dim: v.optional(v.nullable(size), null),
    class_embeddings_concat: unused(false),
    cross_attention_norm: unused(),
  }),
  v.check(
    ({ block_out_channels: { length }, ...config }) =>
      [
        config.down_block_types,
        config.up_block_types,
        config.only_cross_attention,
        config.layers_per_block,
        config.cross_attention_dim,
        config.transformer_layers_per_block,
        config.reverse_transformer_layers_per_block,
        config.attention_head_dim,
        config.num_attention_heads,
      ].every((value) => !Array.isArray(value) || value.length === length),
    'the lists in its config.json differ in length',
  ),
  v.check(
    ({ block_out_channels: widths, norm_num_groups, ...config }) =>
      divides(norm_num_groups, widths) &&
      each(config.num_attention_heads ?? config.attention_head_dim, widths.length).every((heads, index) =>
        divides(heads, [widths[index]]),
      ),
    'its groups or heads do not divide its block_out_channels',
  ),
  v.check(
    ({ addition_embed_type: type, ...config }) =>
      type === null ||
      (config.addition_time_embed_dim !== null &&
        (config.projection_class_embeddings_input_dim ?? 0) > SIZE_IDS * config.addition_time_embed_dim),
    'its projection_class_embeddings_input_dim leaves no room for the text',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/**
 * The sinusoid of a timestep, for the graph's input `time_proj`. Computed here because GPUs' sines are imprecise.
 * Reference: diffusers/models/embeddings.py, get_timestep_embedding
 */
export function timeProjection(
  config: Config,
  timestep: number,
  width = config.block_out_channels[0],
): Float32Array<ArrayBuffer> {
  const half = Math.floor(width / 2);
  const embedding = new Float32Array(width);
  const [sine, cosine] = config.flip_sin_to_cos ? [half, 0] : [0, half];
  for (let index = 0; index < half; index++) {
    // Rounded like the reference, whose arithmetic is f32 throughout.
    const exponent = Math.fround(Math.fround(-Math.log(10000) * index) / (half - config.freq_shift));
    const angle = Math.fround(Math.fround(timestep) * Math.fround(Math.exp(exponent)));
    embedding[sine + index] = Math.sin(angle);
    embedding[cosine + index] = Math.cos(angle);
  }
  return embedding;
}

/**
 * The sinusoids of sizes [{@link SIZE_IDS}], for the input `added_time`.
 * Reference: diffusers/models/unets/unet_2d_condition.py, get_aug_embed (`text_time`)
 */
export function sizeProjection(config: Config, sizes: readonly number[]): Float32Array<ArrayBuffer> {
  const width = config.addition_time_embed_dim ?? 0;
  const projection = new Float32Array(sizes.length * width);
  sizes.forEach((side, index) => {
    projection.set(timeProjection(config, side, width), index * width);
  });
  return projection;
}

/**
 * The sinusoid of a guidance scale, for the input `timestep_cond`.
 * Reference: diffusers/pipelines/latent_consistency_models, get_guidance_scale_embedding
 */
export function guidanceProjection(config: Config, guidance: number): Float32Array<ArrayBuffer> {
  const width = config.time_cond_proj_dim ?? 0;
  const half = Math.floor(width / 2);
  const embedding = new Float32Array(width);
  const scaled = Math.fround(Math.fround(guidance - 1) * 1000);
  const rate = Math.fround(Math.log(10000) / (half - 1));
  for (let index = 0; index < half; index++) {
    const angle = Math.fround(scaled * Math.fround(Math.exp(Math.fround(-rate * index))));
    embedding[index] = Math.sin(angle);
    embedding[half + index] = Math.cos(angle);
  }
  return embedding;
}

/** Width of the pooled text added to the time embedding; null if the network takes none. */
export function pooledWidth(config: Config): number | null {
  const { addition_embed_type, addition_time_embed_dim: dim, projection_class_embeddings_input_dim: all } = config;
  return addition_embed_type === null ? null : (all ?? 0) - SIZE_IDS * (dim ?? 0);
}

/** Channels that an inpainting network takes besides the latents: the mask and the masked picture. */
export function maskChannels({ in_channels, out_channels }: Config): number {
  return in_channels - out_channels;
}

/**
 * Inputs `sample` [batch, out_channels, height, width], `time_proj` [1, block_out_channels[0]] (one timestep for the whole
 * batch), `encoder_hidden_states` [batch, sequence, cross_attention_dim]; output `out_sample` like `sample`. All float32.
 * If the network takes them, also `masked` [batch, {@link maskChannels}, height, width], `text_embeds` [batch, {@link pooledWidth}] with
 * `added_time` [batch, 6·addition_time_embed_dim], and `timestep_cond` [1, time_cond_proj_dim].
 * @param options.controlled adds ControlNet residuals as inputs, one per skip connection and one for the middle: see {@link residualNames}
 * @param options.images tokens of each image prompt: adds their keys and values as inputs ({@link imageInput}) of each of the
 *   {@link crossAttentions}, [batch, tokens, channels]
 * @param options.motion treats the batch as the frames of one video
 * @param options.projected omits what stays the same from step to step: instead of text and sizes the graph takes the outputs of {@link
 * buildContext} as inputs
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(
  config: Config,
  weights: WeightIndex,
  options: GraphOptions & {
    projected?: boolean;
    controlled?: boolean;
    images?: readonly number[] | undefined;
    motion?: Motion | undefined;
  },
): Graph {
  const { batch, height, width, sequence = SEQUENCE, dtype, motion, images } = options;
  const { norm_num_groups: groups, norm_eps: epsilon } = config;
  const g = new LayerWriter(className, weights, options);
  const [first] = config.block_out_channels;

  const latents = g.input('sample', 'float32', [batch, config.out_channels, height, width]);
  const masked = maskChannels(config);
  const sample =
    masked === 0
      ? latents
      : g.concat('sample/masked', [latents, g.input('masked', 'float32', [batch, masked, height, width])], 1);
  const time = timeEmbedding(g, config, options.projected === true);
  const states = options.projected ? null : hiddenStates(g, config, sequence);
  const conditions: Conditions = { config, motion, time, text: { sequence, states, images } };

  const centred = config.center_input_sample ? g.scaleShift('center_input_sample', sample, 2, -1) : sample;
  const start = g.conv('conv_in', g.cast('sample/cast', centred, dtype), first, { kernel: config.conv_in_kernel });
  let { hidden, skips } = encoder(g, config, start, conditions);
  if (options.controlled === true) {
    const add = (name: string, x: Value) => g.add(`${name}/add`, x, g.floats(name, x.dims));
    const names = residualNames(skips.length);
    skips = skips.map((skip, index) => add(names[index], skip));
    hidden = add(names[skips.length], hidden);
  }
  const ups = upBlocksOf(config);
  config.up_block_types.forEach((type, index) => {
    hidden = upBlock(g, index, type, hidden, ups[index], conditions, skips);
  });

  hidden = g.groupNorm('conv_norm_out', hidden, groups, epsilon, 'silu');
  g.output('out_sample', g.conv('conv_out', hidden, config.out_channels, { kernel: config.conv_out_kernel }));
  return g.graph();
}

/**
 * The part that depends on text and sizes alone, so that it need not be repeated at every step: keys and values of each attention to
 * the text. Inputs as in {@link build}; outputs `…/k` and `…/v` [batch, sequence, channels], `…/bias` [channels] and, for pooled text,
 * `added_embedding` [batch, 4·block_out_channels[0]]. All float32; height and width do not matter.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildContext(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { sequence = SEQUENCE } = options;
  const g = new LayerWriter(`${className} context`, weights, options);
  const text = { sequence, states: hiddenStates(g, config, sequence) };
  encoderProjections(g, config, text);
  project(g, config, text, transformersUp(config));
  if (config.addition_embed_type !== null) {
    g.output('added_embedding', addedEmbedding(g, config));
  }
  return g.graph();
}

/** Input names for the additions to the skip connections and, last, to the middle. */
export function residualNames(skips: number): string[] {
  const downs = Array.from({ length: skips }, (_, index) => `down_block_additional_residuals.${index}`);
  return [...downs, 'mid_block_additional_residual'];
}

/**
 * The down blocks and the middle, which ControlNets have too.
 * @param start the output of `conv_in`
 */
export function encoder(
  g: LayerWriter,
  config: Config,
  start: Value,
  conditions: Conditions,
): { hidden: Value; skips: Value[] } {
  const blocks = blocksOf(config);
  const skips = [start];
  let hidden = start;
  config.down_block_types.forEach((type, index) => {
    hidden = downBlock(g, index, type, hidden, blocks[index], conditions, skips, index === blocks.length - 1);
  });
  return { hidden: midBlock(g, config.mid_block_type, hidden, blocks[blocks.length - 1], conditions), skips };
}

/** The part of {@link encoder} that depends on the text alone, as outputs. */
export function encoderProjections(g: LayerWriter, config: Config, text: Text): void {
  project(g, config, text, [...transformersDown(config), ...transformersBetween(config)]);
}

function project(g: LayerWriter, config: Config, text: Text, transformers: readonly Transformer[]): void {
  for (const { path, block, layer } of transformers) {
    textProjections(g, path, block.channels, transformerOptions(g, block, layer, config, text));
  }
}

/** Each attention to the text behind an attention of the picture to itself, in the order in which the reference numbers them. */
export function crossAttentions(config: Config): { path: string; channels: number }[] {
  const transformers = [...transformersDown(config), ...transformersUp(config), ...transformersBetween(config)];
  return transformers.flatMap(({ path, block: { channels, transformerLayers: depths }, layer }) =>
    Array.from({ length: Array.isArray(depths) ? depths[layer] : depths }, (_, index) => ({
      path: `${path}.transformer_blocks.${index}.attn2`,
      channels,
    })),
  );
}

/** One that reads the text, and the block and layer that it is in. */
interface Transformer {
  path: string;
  block: Block;
  layer: number;
}

function transformersOf(side: 'down_blocks' | 'up_blocks', index: number, block: Block, layers: number): Transformer[] {
  return Array.from({ length: layers }, (_, layer) => ({ path: `${side}.${index}.attentions.${layer}`, block, layer }));
}

function transformersDown(config: Config): Transformer[] {
  return blocksOf(config).flatMap((block, index) =>
    config.down_block_types[index] === 'CrossAttnDownBlock2D'
      ? transformersOf('down_blocks', index, block, block.layers)
      : [],
  );
}

function transformersUp(config: Config): Transformer[] {
  return upBlocksOf(config).flatMap((block, index) =>
    config.up_block_types[index] === 'CrossAttnUpBlock2D'
      ? transformersOf('up_blocks', index, block, block.layers + 1)
      : [],
  );
}

function transformersBetween(config: Config): Transformer[] {
  const blocks = blocksOf(config);
  return config.mid_block_type === 'UNetMidBlock2DCrossAttn'
    ? [{ path: 'mid_block.attentions.0', block: { ...blocks[blocks.length - 1], onlyCross: false }, layer: 0 }]
    : [];
}

/** The text's hidden states, an input, as tokens. */
export function hiddenStates(g: LayerWriter, config: Config, sequence: number): Value {
  const [width] = each(config.cross_attention_dim, 1);
  const { batch } = g.options;
  const states = g.floats('encoder_hidden_states', [batch, sequence, width]);
  return g.reshape('encoder_hidden_states/tokens', states, [batch * sequence, width]);
}

function blocksOf(config: Config): Block[] {
  const { length } = config.block_out_channels;
  const layers = each(config.layers_per_block, length);
  // The reference's attention_head_dim is the number of heads (huggingface/diffusers#2011).
  const heads = each(config.num_attention_heads ?? config.attention_head_dim, length);
  const transformerLayers = perBlockDepths(config.transformer_layers_per_block, length);
  const onlyCross = each(config.only_cross_attention, length);
  return config.block_out_channels.map((channels, index) => ({
    channels,
    layers: layers[index],
    heads: heads[index],
    transformerLayers: transformerLayers[index],
    onlyCross: onlyCross[index],
  }));
}

/** In the order of the up blocks. */
function upBlocksOf(config: Config): Block[] {
  const { reverse_transformer_layers_per_block: depths } = config;
  return blocksOf(config)
    .reverse()
    .map((block, index) => ({ ...block, transformerLayers: depths?.[index] ?? block.transformerLayers }));
}

function perBlockDepths(depths: Config['transformer_layers_per_block'], blocks: number): (number | number[])[] {
  return Array.isArray(depths) ? depths : Array.from({ length: blocks }, () => depths);
}

/** TimestepEmbedding in f32, with its additions and the SiLU that each residual block applies to it. */
export function timeEmbedding(g: LayerWriter, config: Config, isProjected: boolean): Value {
  const [width] = config.block_out_channels;
  let projection = g.input('time_proj', 'float32', [1, width]);
  if (config.time_cond_proj_dim !== null) {
    const guidance = g.input('timestep_cond', 'float32', [1, config.time_cond_proj_dim]);
    const projected = g.linear('time_embedding.cond_proj', guidance, width, { bias: false, type: 'f32' });
    projection = g.add('time_embedding/guided', projection, projected);
  }
  let hidden = embedding(g, 'time_embedding', projection, 4 * width);
  if (config.addition_embed_type !== null) {
    const added = isProjected
      ? g.input('added_embedding', 'float32', [g.options.batch, 4 * width])
      : addedEmbedding(g, config);
    hidden = g.add('time_embedding/added', added, hidden);
  }
  return g.cast('time_embedding/cast', g.silu('time_embedding/silu', hidden), g.options.dtype);
}

/** Pooled text and sizes as an addition to the time embedding. */
export function addedEmbedding(g: LayerWriter, config: Config): Value {
  const { batch } = g.options;
  const text = g.input('text_embeds', 'float32', [batch, pooledWidth(config) ?? 0]);
  const sizes = g.input('added_time', 'float32', [batch, SIZE_IDS * (config.addition_time_embed_dim ?? 0)]);
  const both = g.concat('add_embedding/concat', [text, sizes], 1);
  return embedding(g, 'add_embedding', both, 4 * config.block_out_channels[0]);
}

/** TimestepEmbedding in f32. */
function embedding(g: LayerWriter, path: string, projection: Value, width: number): Value {
  const hidden = g.linear(`${path}.linear_1`, projection, width, { type: 'f32' });
  return g.linear(`${path}.linear_2`, g.silu(`${path}.act`, hidden), width, { type: 'f32' });
}
