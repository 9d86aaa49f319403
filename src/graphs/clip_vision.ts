/**
 * CLIP's vision encoder, by which IP-Adapters and Wan 2.1 see a picture.
 * Reference: transformers/models/clip/modeling_clip.py (CLIPVisionModelWithProjection, CLIPVisionModel)
 */
import * as v from 'valibot';
import { clipLayer, type LayerState } from './clip_layer.ts';
import { count, divides, only, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';

export const className = 'CLIPVisionModelWithProjection';
/** The same network without the layer that makes one vector of a picture. */
export const plainClassName = 'CLIPVisionModel';

const CHANNELS = 3;

export const configSchema = v.pipe(
  v.object({
    hidden_size: count(768),
    intermediate_size: count(3072),
    projection_dim: count(512),
    num_hidden_layers: v.optional(v.pipe(v.number(), v.integer(), v.minValue(2)), 12),
    num_attention_heads: count(12),
    num_channels: only([CHANNELS], CHANNELS),
    image_size: count(224),
    patch_size: count(32),
    hidden_act: only(['quick_gelu', 'gelu'], 'quick_gelu'),
    layer_norm_eps: real(1e-5),
  }),
  v.check(
    ({ hidden_size, num_attention_heads }) => divides(num_attention_heads, [hidden_size]),
    'its num_attention_heads does not divide its hidden_size',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** What of a picture is given: all of it as one vector, or the states of its parts before the last layer. */
export type VisionOutput = 'image_embeds' | 'penultimate_hidden_state';

/** Parts of a picture, and the one that stands for all of them. */
export function partsOf({ image_size: side, patch_size: patch }: Config): number {
  return Math.floor(side / patch) ** 2 + 1;
}

/** Dimensions of an output for one picture. */
export function outputDims(config: Config, output: VisionOutput): number[] {
  return output === 'image_embeds' ? [1, config.projection_dim] : [1, partsOf(config), config.hidden_size];
}

/**
 * Input `pixel_values` [1, 3, image_size, image_size], normalised as CLIP wants it; the output has the name and the dimensions that `output`
 * says ({@link outputDims}). Both float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(
  config: Config,
  weights: WeightIndex,
  options: GraphOptions,
  output: VisionOutput = 'image_embeds',
): Graph {
  const { hidden_size: width, num_hidden_layers: layers, image_size: side, patch_size: patch } = config;
  const { layer_norm_eps: epsilon } = config;
  const g = new LayerWriter(className, weights, { ...options, batch: 1 });
  // Since version 5 transformers saves the plain class without this prefix.
  const root = weights.get('embeddings.class_embedding') ? '' : 'vision_model.';
  const embeddings = `${root}embeddings`;
  const parts = partsOf(config);

  const pixels = g.floats('pixel_values', [1, CHANNELS, side, side]);
  const cut = g.conv(`${embeddings}.patch_embedding`, pixels, width, {
    kernel: patch,
    stride: patch,
    padding: 0,
    bias: false,
  });
  const whole = g.weight(`${embeddings}.class_embedding`, [1, width]);
  const tokens = g.concat(`${embeddings}/tokens`, [whole, g.tokens(`${embeddings}/patches`, cut)], 0);
  const placed = g.add(embeddings, tokens, g.weight(`${embeddings}.position_embedding.weight`, [parts, width]));
  // The name is misspelt in all files.
  const residual = g.layerNorm(`${root}pre_layrnorm`, placed, epsilon);
  const layer = (index: number) => `${root}encoder.layers.${index}`;
  let state: LayerState = { residual, normal: g.layerNorm(`${layer(0)}.layer_norm1`, residual, epsilon) };
  const last = output === 'image_embeds' ? layers : layers - 1;
  for (let index = 0; index < last; index++) {
    const next = index + 1 < layers ? `${layer(index + 1)}.layer_norm1` : `${root}post_layernorm`;
    state = clipLayer(g, layer(index), state, next, config, false);
  }
  if (output === 'image_embeds') {
    const pooled = g.firstOf('pooled', state.normal, 1);
    g.output(output, g.linear('visual_projection', pooled, config.projection_dim, { bias: false }));
  } else {
    g.output(output, g.reshape(`${output}/batch`, state.residual, [1, parts, width]));
  }
  return g.graph();
}
