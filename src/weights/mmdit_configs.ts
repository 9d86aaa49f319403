/** Infers the configurations of flow transformers from the shapes of their tensors, and from what all published ones have in common. */
import {
  autoencoderConfig,
  causalAutoencoderConfig,
  each,
  mistralConfig,
  qwen3Config,
  qwen3VlConfig,
  qwenVlConfig,
  t5Config,
  type Shapes,
} from './inferred_configs.ts';
import { ltxConfig, ltxVaeConfig } from './ltx_layout.ts';
import type { MmditKind } from './mmdit_layout.ts';
import { LAYERED } from './mmdit_published.ts';

/** Of attention in Stable Diffusion 3, where no norm of its queries tells it. */
const SD3_HEAD_WIDTH = 64;
/** Latents per side of the pictures that Stable Diffusion 3 was trained at. */
const SD3_SAMPLE = 128;
/** Of a head, the shares that its axes turn. */
const FLUX_AXES = [1 / 8, 7 / 16, 7 / 16];
/** FLUX.2's and FLUX.3's. */
const FLUX2_AXES = [1 / 4, 1 / 4, 1 / 4, 1 / 4];
const Z_IMAGE_AXES = [1 / 4, 3 / 8, 3 / 8];
/** Of attention in Wan, whose norms are across heads. */
const WAN_HEAD_WIDTH = 128;
/** Latents of a patch. */
const PATCH = 2 ** 2;

export interface InferredNetwork {
  className: string;
  configOf: (shapes: Shapes) => Record<string, unknown>;
}

export const TRANSFORMERS: Record<MmditKind, InferredNetwork> = {
  sd3: { className: 'SD3Transformer2DModel', configOf: sd3Config },
  flux1: { className: 'FluxTransformer2DModel', configOf: fluxConfig },
  flux2: { className: 'Flux2Transformer2DModel', configOf: flux2Config },
  flux3: { className: 'Flux3Transformer2DModel', configOf: flux3Config },
  z_image: { className: 'ZImageTransformer2DModel', configOf: zImageConfig },
  qwen_image: { className: 'QwenImageTransformer2DModel', configOf: qwenImageConfig },
  wan: { className: 'WanTransformer3DModel', configOf: wanConfig },
  ltx: { className: 'LTXVideoTransformer3DModel', configOf: ltxConfig },
};

const autoencoderKl = (scaling_factor: number, shift_factor: number): InferredNetwork => ({
  className: 'AutoencoderKL',
  configOf: (shapes) => autoencoderConfig(shapes, { scaling_factor, shift_factor }),
});

export const VAES: Record<MmditKind, InferredNetwork> = {
  sd3: autoencoderKl(1.5305, 0.0609),
  flux1: autoencoderKl(0.3611, 0.1159),
  flux2: { className: 'AutoencoderKLFlux2', configOf: (shapes) => autoencoderConfig(shapes, {}) },
  flux3: { className: 'AutoencoderKLFlux2', configOf: (shapes) => autoencoderConfig(shapes, {}) },
  z_image: autoencoderKl(0.3611, 0.1159),
  qwen_image: {
    className: 'AutoencoderKLQwenImage',
    configOf: (shapes) => ({
      ...causalAutoencoderConfig(shapes),
      input_channels: shapes.of('decoder.conv_out.weight')[0],
    }),
  },
  wan: { className: 'AutoencoderKLWan', configOf: causalAutoencoderConfig },
  ltx: { className: 'AutoencoderKLLTXVideo', configOf: ltxVaeConfig },
};

const T5: InferredNetwork = { className: 'T5EncoderModel', configOf: t5Config };
const QWEN3: InferredNetwork = { className: 'Qwen3ForCausalLM', configOf: qwen3Config };
const MISTRAL: InferredNetwork = { className: 'Mistral3ForConditionalGeneration', configOf: mistralConfig };

/** The text encoder that needs a vocabulary of its own: FLUX.2 has either of two. */
export function readerOf(kind: MmditKind, shapes: Shapes): InferredNetwork {
  return kind === 'flux2' && !shapes.has('model.layers.0.self_attn.q_norm.weight') ? MISTRAL : READERS[kind];
}

const READERS: Record<MmditKind, InferredNetwork> = {
  sd3: T5,
  flux1: T5,
  flux2: QWEN3,
  flux3: { className: 'Qwen3VLForConditionalGeneration', configOf: qwen3VlConfig },
  z_image: QWEN3,
  qwen_image: { className: 'Qwen2_5_VLForConditionalGeneration', configOf: qwenVlConfig },
  wan: { className: 'UMT5EncoderModel', configOf: t5Config },
  ltx: T5,
};

function sd3Config(shapes: Shapes): Record<string, unknown> {
  const [dim, joint] = shapes.of('context_embedder.weight');
  const [head = SD3_HEAD_WIDTH] = shapes.of('transformer_blocks.0.attn.norm_q.weight');
  const layers = shapes.count(/^transformer_blocks\.(\d+)\./);
  const [, channels] = shapes.of('pos_embed.proj.weight');
  return {
    sample_size: SD3_SAMPLE,
    patch_size: shapes.of('pos_embed.proj.weight')[2],
    in_channels: channels,
    out_channels: channels,
    num_layers: layers,
    attention_head_dim: head,
    num_attention_heads: dim / head,
    joint_attention_dim: joint,
    caption_projection_dim: dim,
    pooled_projection_dim: shapes.of('time_text_embed.text_embedder.linear_1.weight')[1],
    pos_embed_max_size: Math.sqrt(shapes.of('pos_embed.pos_embed')[1]),
    dual_attention_layers: each(layers, (i) => i).filter((i) =>
      shapes.has(`transformer_blocks.${i}.attn2.to_q.weight`),
    ),
    qk_norm: shapes.has('transformer_blocks.0.attn.norm_q.weight') ? 'rms_norm' : null,
  };
}

function fluxConfig(shapes: Shapes): Record<string, unknown> {
  const [dim, joint] = shapes.of('context_embedder.weight');
  const [head] = shapes.of('transformer_blocks.0.attn.norm_q.weight');
  return {
    in_channels: shapes.of('x_embedder.weight')[1],
    out_channels: shapes.of('proj_out.weight')[0],
    num_layers: shapes.count(/^transformer_blocks\.(\d+)\./),
    num_single_layers: shapes.count(/^single_transformer_blocks\.(\d+)\./),
    attention_head_dim: head,
    num_attention_heads: dim / head,
    joint_attention_dim: joint,
    pooled_projection_dim: shapes.of('time_text_embed.text_embedder.linear_1.weight')[1],
    guidance_embeds: shapes.has('time_text_embed.guidance_embedder.linear_1.weight'),
    axes_dims_rope: FLUX_AXES.map((share) => share * head),
  };
}

function flux2Config(shapes: Shapes): Record<string, unknown> {
  const [dim, joint] = shapes.of('context_embedder.weight');
  const [head] = shapes.of('transformer_blocks.0.attn.norm_q.weight');
  return {
    in_channels: shapes.of('x_embedder.weight')[1],
    num_layers: shapes.count(/^transformer_blocks\.(\d+)\./),
    num_single_layers: shapes.count(/^single_transformer_blocks\.(\d+)\./),
    attention_head_dim: head,
    num_attention_heads: dim / head,
    joint_attention_dim: joint,
    timestep_guidance_channels: shapes.of('time_guidance_embed.timestep_embedder.linear_1.weight')[1],
    mlp_ratio: shapes.of('transformer_blocks.0.ff.linear_out.weight')[1] / dim,
    axes_dims_rope: FLUX2_AXES.map((share) => share * head),
    guidance_embeds: shapes.has('time_guidance_embed.guidance_embedder.linear_1.weight'),
  };
}

function flux3Config(shapes: Shapes): Record<string, unknown> {
  const [dim, joint] = shapes.of('context_embedder.weight');
  const [head] = shapes.of('single_transformer_blocks.0.attn.norm_q.weight');
  return {
    in_channels: shapes.of('x_embedders.image.weight')[1],
    cond_in_channels: shapes.of('x_embedders.image_cond.weight')[1],
    num_layers: shapes.count(/^txt_mode_blocks\.(\d+)\./),
    num_single_layers: shapes.count(/^single_transformer_blocks\.(\d+)\./),
    attention_head_dim: head,
    num_attention_heads: dim / head,
    joint_attention_dim: joint,
    timestep_channels: shapes.of('timestep_embedder.linear_1.weight')[1],
    mlp_ratio: shapes.of('single_transformer_blocks.0.ff.linear_out.weight')[1] / dim,
    axes_dims_rope: FLUX2_AXES.map((share) => share * head),
    flow_map: shapes.has('target_timestep_embedder.linear_1.weight'),
  };
}

function zImageConfig(shapes: Shapes): Record<string, unknown> {
  const [dim, features] = shapes.of('cap_embedder.1.weight');
  const [head] = shapes.of('layers.0.attention.norm_q.weight');
  return {
    in_channels: shapes.of('all_x_embedder.2-1.weight')[1] / PATCH,
    dim,
    n_layers: shapes.count(/^layers\.(\d+)\./),
    n_refiner_layers: shapes.count(/^noise_refiner\.(\d+)\./),
    n_heads: dim / head,
    n_kv_heads: dim / head,
    cap_feat_dim: features,
    axes_dims: Z_IMAGE_AXES.map((share) => share * head),
  };
}

function qwenImageConfig(shapes: Shapes): Record<string, unknown> {
  const [dim, channels] = shapes.of('img_in.weight');
  const [head] = shapes.of('transformer_blocks.0.attn.norm_q.weight');
  return {
    in_channels: channels,
    out_channels: shapes.of('proj_out.weight')[0] / PATCH,
    num_layers: shapes.count(/^transformer_blocks\.(\d+)\./),
    attention_head_dim: head,
    num_attention_heads: dim / head,
    joint_attention_dim: shapes.of('txt_in.weight')[1],
    axes_dims_rope: FLUX_AXES.map((share) => share * head),
    ...(shapes.has(LAYERED) && { use_additional_t_cond: true, use_layer3d_rope: true }),
  };
}

function wanConfig(shapes: Shapes): Record<string, unknown> {
  const [dim, channels] = shapes.of('patch_embedding.weight');
  const [imageDim] = shapes.of('condition_embedder.image_embedder.norm1.weight');
  return {
    in_channels: channels,
    out_channels: shapes.of('proj_out.weight')[0] / PATCH,
    num_attention_heads: dim / WAN_HEAD_WIDTH,
    attention_head_dim: WAN_HEAD_WIDTH,
    text_dim: shapes.of('condition_embedder.text_embedder.linear_1.weight')[1],
    freq_dim: shapes.of('condition_embedder.time_embedder.linear_1.weight')[1],
    ffn_dim: shapes.of('blocks.0.ffn.net.0.proj.weight')[0],
    num_layers: shapes.count(/^blocks\.(\d+)\./),
    ...(imageDim !== undefined && {
      image_dim: imageDim,
      added_kv_proj_dim: shapes.of('blocks.0.attn2.add_k_proj.weight')[1],
      pos_embed_seq_len: shapes.of('condition_embedder.image_embedder.pos_embed')[1] ?? null,
    }),
  };
}
