/**
 * The UNet of Stable Diffusion 1, 2 and XL, of their inpainting versions, of LCM, and of the smaller ones that were distilled from them.
 * Reference: diffusers/models/unets/unet_2d_condition.py, unet_2d_blocks.py
 */
import * as v from 'valibot';
import type { Text, TransformerOptions } from './attention.ts';
import { textProjections, transformer2d } from './attention.ts';
import { count, counts, divides, each, flag, only, parseNetworkConfig, perBlock, real, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, picture } from './layers.ts';
import type { Value } from './onnx.ts';
import { downsample, resnetBlock, upsample } from './resnet.ts';

export const className = 'UNet2DConditionModel';

/** Numbers that Stable Diffusion XL is told of sizes: original, crop and target, of each two. */
export const SIZE_IDS = 6;

/** Tokens per prompt where the options do not say. */
const SEQUENCE = 77;

const DOWN_BLOCKS = ['DownBlock2D', 'CrossAttnDownBlock2D'] as const;
const MID_BLOCKS = ['UNetMidBlock2DCrossAttn', 'UNetMidBlock2D'] as const;
const UP_BLOCKS = ['UpBlock2D', 'CrossAttnUpBlock2D'] as const;

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
    /** Of the up blocks, where these differ from the down blocks. */
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
    /** Width of what the guidance scale is given as; null = it is no input. */
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
 * The sinusoid of a timestep, for the graph's input `time_proj`. It is computed here because sines on GPUs are imprecise.
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
    // Rounded where the reference rounds: its arithmetic is f32 throughout.
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

/** Width of the pooled text that is added to the time; null for a network that takes none. */
export function pooledWidth(config: Config): number | null {
  const { addition_embed_type, addition_time_embed_dim: dim, projection_class_embeddings_input_dim: all } = config;
  return addition_embed_type === null ? null : (all ?? 0) - SIZE_IDS * (dim ?? 0);
}

/** Channels that an inpainting network takes beside the latents: the mask, and the picture without what it covers. */
export function maskChannels({ in_channels, out_channels }: Config): number {
  return in_channels - out_channels;
}

/** What the blocks share. */
interface Conditions {
  config: Config;
  /** silu(time embedding) [1 or batch, 4·block_out_channels[0]]. */
  time: Value;
  text: Text;
}

/** The values of the config's lists for one block. */
interface Block {
  channels: number;
  layers: number;
  heads: number;
  /** Of each of its transformers. */
  transformerLayers: number | number[];
  onlyCross: boolean;
}

/**
 * Inputs `sample` [batch, out_channels, height, width], `time_proj` [1, block_out_channels[0]] (one timestep for the whole
 * batch), `encoder_hidden_states` [batch, sequence, cross_attention_dim]; output `out_sample` like `sample`. All float32.
 * Where the network takes them also `masked` [batch, {@link maskChannels}, height, width], `text_embeds` [batch, {@link pooledWidth}] with
 * `added_time` [batch, 6·addition_time_embed_dim], and `timestep_cond` [1, time_cond_proj_dim].
 * @param options.projected leaves out what does not change from step to step: instead of the inputs that are made of text and sizes the
 *   graph has the outputs of {@link buildContext} as inputs
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: GraphOptions & { projected?: boolean }): Graph {
  const { batch, height, width, sequence = SEQUENCE, dtype } = options;
  const { norm_num_groups: groups, norm_eps: epsilon } = config;
  const g = new LayerWriter(className, weights, options);
  const blocks = blocksOf(config);
  const [first] = config.block_out_channels;

  const latents = g.input('sample', 'float32', [batch, config.out_channels, height, width]);
  const masked = maskChannels(config);
  const sample =
    masked === 0
      ? latents
      : g.concat('sample/masked', [latents, g.input('masked', 'float32', [batch, masked, height, width])], 1);
  const time = timeEmbedding(g, config, options.projected === true);
  const states = options.projected ? null : hiddenStates(g, config, sequence);
  const conditions: Conditions = { config, time, text: { sequence, states } };

  const centred = config.center_input_sample ? g.scaleShift('center_input_sample', sample, 2, -1) : sample;
  let hidden = g.cast('sample/cast', centred, dtype);
  hidden = g.conv('conv_in', hidden, first, { kernel: config.conv_in_kernel });

  const skips = [hidden];
  config.down_block_types.forEach((type, index) => {
    hidden = downBlock(g, index, type, hidden, blocks[index], conditions, skips);
  });
  hidden = midBlock(g, hidden, blocks.at(-1) as Block, conditions);
  const ups = upBlocksOf(config);
  config.up_block_types.forEach((type, index) => {
    hidden = upBlock(g, index, type, hidden, ups[index], conditions, skips);
  });

  hidden = g.groupNorm('conv_norm_out', hidden, groups, epsilon, 'silu');
  g.output('out_sample', g.conv('conv_out', hidden, config.out_channels, { kernel: config.conv_out_kernel }));
  return g.graph();
}

/**
 * What the network makes of text and sizes alone, so that it need not do so at every step: keys and values of each attention to
 * the text. Inputs as of {@link build}; outputs `…/k` and `…/v` [batch, sequence, channels], `…/bias` [channels] and, of pooled text,
 * `added_embedding` [batch, 4·block_out_channels[0]]. All float32; height and width do not matter.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildContext(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { sequence = SEQUENCE } = options;
  const g = new LayerWriter(`${className} context`, weights, options);
  const text = { sequence, states: hiddenStates(g, config, sequence) };
  const blocks = blocksOf(config);
  const project = (path: string, block: Block, layer: number) => {
    textProjections(g, path, block.channels, transformerOptions(g, block, layer, config, text));
  };
  config.down_block_types.forEach((type, index) => {
    const block = blocks[index];
    for (let layer = 0; type === 'CrossAttnDownBlock2D' && layer < block.layers; layer++) {
      project(`down_blocks.${index}.attentions.${layer}`, block, layer);
    }
  });
  if (config.mid_block_type === 'UNetMidBlock2DCrossAttn') {
    project('mid_block.attentions.0', { ...blocks[blocks.length - 1], onlyCross: false }, 0);
  }
  const ups = upBlocksOf(config);
  config.up_block_types.forEach((type, index) => {
    const block = ups[index];
    for (let layer = 0; type === 'CrossAttnUpBlock2D' && layer <= block.layers; layer++) {
      project(`up_blocks.${index}.attentions.${layer}`, block, layer);
    }
  });
  if (config.addition_embed_type !== null) {
    g.output('added_embedding', addedEmbedding(g, config));
  }
  return g.graph();
}

/** The text's hidden states, an input, as tokens. */
function hiddenStates(g: LayerWriter, config: Config, sequence: number): Value {
  const [width] = each(config.cross_attention_dim, 1);
  const { batch } = g.options;
  const states = g.floats('encoder_hidden_states', [batch, sequence, width]);
  return g.reshape('encoder_hidden_states/tokens', states, [batch * sequence, width]);
}

function blocksOf(config: Config): Block[] {
  const { length } = config.block_out_channels;
  const layers = each(config.layers_per_block, length);
  // What the reference calls attention_head_dim is the number of heads (huggingface/diffusers#2011).
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

/** TimestepEmbedding in f32, with what is added to it, and the SiLU that each residual block applies to it. */
function timeEmbedding(g: LayerWriter, config: Config, isProjected: boolean): Value {
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
function addedEmbedding(g: LayerWriter, config: Config): Value {
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

function resnet(g: LayerWriter, path: string, x: Value, out: number, { config, time }: Conditions): Value {
  return resnetBlock(g, path, x, { out, groups: config.norm_num_groups, epsilon: config.norm_eps, time });
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

function transformerOptions(
  g: LayerWriter,
  { transformerLayers, ...block }: Block,
  layer: number,
  config: Config,
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

/** DownBlock2D and CrossAttnDownBlock2D. Leaves what the up blocks will need in `skips`. */
function downBlock(
  g: LayerWriter,
  index: number,
  type: (typeof DOWN_BLOCKS)[number],
  x: Value,
  block: Block,
  conditions: Conditions,
  skips: Value[],
): Value {
  const { config } = conditions;
  const path = `down_blocks.${index}`;
  let hidden = x;
  for (let layer = 0; layer < block.layers; layer++) {
    hidden = resnet(g, `${path}.resnets.${layer}`, hidden, block.channels, conditions);
    if (type === 'CrossAttnDownBlock2D') {
      hidden = transformer(g, `${path}.attentions.${layer}`, hidden, block, layer, conditions);
    }
    skips.push(hidden);
  }
  if (index < config.block_out_channels.length - 1) {
    hidden = downsample(g, `${path}.downsamplers.0`, hidden, config.downsample_padding);
    skips.push(hidden);
  }
  return hidden;
}

/** UNetMidBlock2DCrossAttn, which has self-attention always; UNetMidBlock2D, which is one residual block here; or none. */
function midBlock(g: LayerWriter, x: Value, block: Block, conditions: Conditions): Value {
  const { mid_block_type: type } = conditions.config;
  if (type === null) {
    return x;
  }
  let hidden = resnet(g, 'mid_block.resnets.0', x, block.channels, conditions);
  if (type === 'UNetMidBlock2D') {
    return hidden;
  }
  hidden = transformer(g, 'mid_block.attentions.0', hidden, { ...block, onlyCross: false }, 0, conditions);
  return resnet(g, 'mid_block.resnets.1', hidden, block.channels, conditions);
}

/** UpBlock2D and CrossAttnUpBlock2D. Takes its skip connections off the end of `skips`. */
function upBlock(
  g: LayerWriter,
  index: number,
  type: (typeof UP_BLOCKS)[number],
  x: Value,
  block: Block,
  conditions: Conditions,
  skips: Value[],
): Value {
  const path = `up_blocks.${index}`;
  let hidden = x;
  for (let layer = 0; layer < block.layers + 1; layer++) {
    hidden = g.concat(`${path}.resnets.${layer}/concat`, [hidden, skips.pop() as Value], 1);
    hidden = resnet(g, `${path}.resnets.${layer}`, hidden, block.channels, conditions);
    if (type === 'CrossAttnUpBlock2D') {
      hidden = transformer(g, `${path}.attentions.${layer}`, hidden, block, layer, conditions);
    }
  }
  const next = skips.at(-1);
  if (next) {
    // Odd sizes were rounded up on the way down; the next skip connection says what they were.
    const [, , height, width] = picture(next);
    hidden = upsample(g, `${path}.upsamplers.0`, hidden, [height, width]);
  }
  return hidden;
}
