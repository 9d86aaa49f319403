/** Infers a diffusers `config.json` from the shapes of a network's tensors. */
import type { StoredTensor } from '../graphs/graph.ts';

/** Of attention in CLIP's text encoders and in Stable Diffusion 2's UNet, in every published one. */
export const HEAD_WIDTH = 64;
/** Of attention in Qwen2.5-VL. */
const QWEN_VL_HEAD_WIDTH = 128;
/** Of attention in Mistral. */
const MISTRAL_HEAD_WIDTH = 128;
/** Of every published autoencoder. */
const GROUPS = 32;

/** A network's tensors by module name, from which its configuration is inferred. */
export class Shapes {
  constructor(readonly tensors: ReadonlyMap<string, StoredTensor>) {}

  /** Empty where there is no such tensor. */
  of(name: string): number[] {
    return this.tensors.get(name)?.shape ?? [];
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** The number of distinct first groups of the pattern among the names. */
  count(pattern: RegExp): number {
    return new Set([...this.tensors.keys()].flatMap((name) => pattern.exec(name)?.[1] ?? [])).size;
  }
}

/** The half of a UNet that leads down to its middle, which ControlNets have, too. */
export function unetEncoderConfig(shapes: Shapes): {
  block_out_channels: number[];
  layers_per_block: number;
  down_block_types: string[];
  mid_block_type: string | null;
  transformer_layers_per_block: (number | number[])[];
  cross_attention_dim: number | undefined;
} {
  const names = [...shapes.tensors.keys()];
  const attends = (block: string) => names.some((name) => name.startsWith(`${block}.attentions.`));
  const blocks = shapes.count(/^down_blocks\.(\d+)\./);
  const layers = shapes.count(/^down_blocks\.0\.resnets\.(\d+)\./);
  const keys = names.find((name) => name.endsWith('.transformer_blocks.0.attn2.to_k.weight')) ?? '';
  return {
    block_out_channels: each(blocks, (i) => shapes.of(`down_blocks.${i}.resnets.0.conv1.weight`)[0]),
    layers_per_block: layers,
    down_block_types: each(blocks, (i) => (attends(`down_blocks.${i}`) ? 'CrossAttnDownBlock2D' : 'DownBlock2D')),
    mid_block_type: attends('mid_block')
      ? 'UNetMidBlock2DCrossAttn'
      : names.some((name) => name.startsWith('mid_block.'))
        ? 'UNetMidBlock2D'
        : null,
    // The middle has as many as the last block before it, which has none itself in Stable Diffusion 1 and 2.
    transformer_layers_per_block: each(blocks, (i) => {
      const depth = transformerDepths(shapes, `down_blocks.${i}`, layers);
      return i === blocks - 1 && depth === 0 ? shapes.count(MIDDLE_DEPTH) : depth;
    }),
    cross_attention_dim: shapes.of(keys)[1],
  };
}

const MIDDLE_DEPTH = /^mid_block\.attentions\.0\.transformer_blocks\.(\d+)\./;

/** Layers of each of a block's transformers; one number where all are alike. */
export function transformerDepths(shapes: Shapes, block: string, layers: number): number | number[] {
  const depths = each(layers, (layer) =>
    shapes.count(
      new RegExp(`^${block.replaceAll('.', '\\.')}\\.attentions\\.${layer}\\.transformer_blocks\\.(\\d+)\\.`),
    ),
  );
  return depths.every((one) => one === depths[0]) ? depths[0] : depths;
}

/** @param numbers that cannot be inferred from shapes */
export function autoencoderConfig(
  shapes: Shapes,
  numbers: { scaling_factor?: number; shift_factor?: number },
): Record<string, unknown> {
  // From the decoder, which every file has; its blocks are reversed and have one more layer each.
  const blocks = shapes.count(/^decoder\.up_blocks\.(\d+)\./);
  return {
    block_out_channels: each(blocks, (i) => shapes.of(`decoder.up_blocks.${blocks - 1 - i}.resnets.0.conv1.weight`)[0]),
    down_block_types: each(blocks, () => 'DownEncoderBlock2D'),
    up_block_types: each(blocks, () => 'UpDecoderBlock2D'),
    layers_per_block: shapes.count(/^decoder\.up_blocks\.0\.resnets\.(\d+)\./) - 1,
    in_channels: shapes.of('decoder.conv_out.weight')[0],
    out_channels: shapes.of('decoder.conv_out.weight')[0],
    latent_channels: shapes.of('decoder.conv_in.weight')[1],
    norm_num_groups: GROUPS,
    ...numbers,
    use_quant_conv: shapes.has('quant_conv.weight'),
    use_post_quant_conv: shapes.has('post_quant_conv.weight'),
  };
}

/** The causal autoencoder for videos, of Wan 2.1, Wan 2.2 5B and Qwen-Image. */
export function causalAutoencoderConfig(shapes: Shapes): Record<string, unknown> {
  const blocks = shapes.count(/^decoder\.up_blocks\.(\d+)\./);
  const [base] = shapes.of('decoder.norm_out.gamma');
  const [inner, channels] = shapes.of('encoder.conv_in.weight');
  const isResidual = shapes.has('decoder.up_blocks.0.upsampler.resample.1.weight');
  const enlarger = isResidual ? 'upsampler' : 'upsamplers.0';
  // The decoder has the levels of the encoder backwards.
  const levels = each(blocks, (i) => `decoder.up_blocks.${blocks - 1 - i}`);
  const [, latents] = shapes.of('decoder.conv_in.weight');
  return {
    base_dim: isResidual ? inner : base,
    z_dim: latents,
    ...(isResidual && {
      is_residual: true,
      decoder_base_dim: base,
      in_channels: channels,
      out_channels: shapes.of('decoder.conv_out.weight')[0],
      patch_size: Math.sqrt(channels / 3),
      ...(latents === WAN22_CHANNELS && { latents_mean: WAN22_MEAN, latents_std: WAN22_DEVIATION }),
    }),
    dim_mult: levels.map((level) => shapes.of(`${level}.resnets.0.conv2.weight`)[0] / base),
    num_res_blocks: shapes.count(/^decoder\.up_blocks\.0\.resnets\.(\d+)\./) - 1,
    temperal_downsample: levels.slice(1).map((level) => shapes.has(`${level}.${enlarger}.time_conv.weight`)),
  };
}

/** Of the latents of Wan 2.2 5B. */
export const WAN22_CHANNELS = 48;
/** What these are on average, and how far they spread, by channel; diffusers/scripts/convert_wan_to_diffusers.py (vae22_diffusers_config). */
const WAN22_MEAN = [
  -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.157, -0.0098,
  0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322, 0.1109,
  0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052, 0.3748, 0.0152,
  0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
];
const WAN22_DEVIATION = [
  0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454,
  0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069,
  0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537,
  0.5444, 0.4089, 0.7468, 0.7744,
];

/** Widths of OpenAI's, whose heads are 64 wide and which compute the quick GELU. The larger ones are OpenCLIP's, with as many heads each. */
const OPEN_AI = new Set([768, 1024]);
const OPEN_CLIP_HEADS = 16;

/** CLIP's vision encoder; what no shape tells is known of the published ones. */
export function clipVisionConfig(shapes: Shapes): Record<string, unknown> {
  const embeddings = 'vision_model.embeddings';
  const [width, channels, patch] = shapes.of(`${embeddings}.patch_embedding.weight`);
  const [positions] = shapes.of(`${embeddings}.position_embedding.weight`);
  const isOpenAi = OPEN_AI.has(width);
  return {
    hidden_size: width,
    intermediate_size: shapes.of('vision_model.encoder.layers.0.mlp.fc1.weight')[0],
    projection_dim: shapes.of('visual_projection.weight')[0],
    num_hidden_layers: shapes.count(/^vision_model\.encoder\.layers\.(\d+)\./),
    num_attention_heads: isOpenAi ? width / HEAD_WIDTH : OPEN_CLIP_HEADS,
    num_channels: channels,
    image_size: patch * Math.round(Math.sqrt(positions - 1)),
    patch_size: patch,
    hidden_act: isOpenAi ? 'quick_gelu' : 'gelu',
  };
}

/** @param isOpenClip whether it is OpenCLIP's rather than OpenAI's */
export function clipConfig(shapes: Shapes, isOpenClip: boolean): Record<string, unknown> {
  const root = shapes.has('text_model.embeddings.token_embedding.weight') ? 'text_model.' : '';
  const [vocabulary, width] = shapes.of(`${root}embeddings.token_embedding.weight`);
  return {
    vocab_size: vocabulary,
    hidden_size: width,
    intermediate_size: shapes.of(`${root}encoder.layers.0.mlp.fc1.weight`)[0],
    num_hidden_layers: shapes.count(/^(?:text_model\.)?encoder\.layers\.(\d+)\./),
    num_attention_heads: Math.max(1, Math.floor(width / HEAD_WIDTH)),
    max_position_embeddings: shapes.of(`${root}embeddings.position_embedding.weight`)[0],
    hidden_act: isOpenClip ? 'gelu' : 'quick_gelu',
    // The original layout has the matrix transposed.
    projection_dim: shapes.of('text_projection')[1] ?? shapes.of('text_projection.weight')[0],
    eos_token_id: 2,
  };
}

export function t5Config(shapes: Shapes): Record<string, unknown> {
  const first = 'encoder.block.0.layer';
  const [buckets, heads] = shapes.of(`${first}.0.SelfAttention.relative_attention_bias.weight`);
  const table = ['shared.weight', 'encoder.embed_tokens.weight'].find((name) => shapes.has(name)) ?? '';
  const [vocabulary, width] = shapes.of(table);
  return {
    vocab_size: vocabulary,
    d_model: width,
    d_kv: shapes.of(`${first}.0.SelfAttention.q.weight`)[0] / heads,
    d_ff: shapes.of(`${first}.1.DenseReluDense.wo.weight`)[1],
    num_heads: heads,
    num_layers: shapes.count(/^encoder\.block\.(\d+)\./),
    relative_attention_num_buckets: buckets,
    feed_forward_proj: shapes.has(`${first}.1.DenseReluDense.wi_0.weight`) ? 'gated-gelu' : 'relu',
  };
}

/** What no shape tells is the same in all published ones. */
export function qwen3Config(shapes: Shapes, root = 'model'): Record<string, unknown> {
  const [vocabulary, width] = shapes.of(`${root}.embed_tokens.weight`);
  const first = `${root}.layers.0`;
  const [head] = shapes.of(`${first}.self_attn.q_norm.weight`);
  return {
    vocab_size: vocabulary,
    hidden_size: width,
    intermediate_size: shapes.of(`${first}.mlp.gate_proj.weight`)[0],
    num_hidden_layers: shapes.count(/^model\.(?:language_model\.)?layers\.(\d+)\./),
    num_attention_heads: shapes.of(`${first}.self_attn.q_proj.weight`)[0] / head,
    num_key_value_heads: shapes.of(`${first}.self_attn.k_proj.weight`)[0] / head,
    head_dim: head,
    rope_theta: 1_000_000,
  };
}

/** As {@link qwen3Config}, of a text encoder of which the words alone are read. */
export function qwen3VlConfig(shapes: Shapes): Record<string, unknown> {
  return { text_config: { ...qwen3Config(shapes, 'model.language_model'), rope_theta: 5_000_000 } };
}

/** As {@link qwen3Config}. */
export function mistralConfig(shapes: Shapes): Record<string, unknown> {
  const [vocabulary, width] = shapes.of('model.embed_tokens.weight');
  const first = 'model.layers.0';
  return {
    text_config: {
      vocab_size: vocabulary,
      hidden_size: width,
      intermediate_size: shapes.of(`${first}.mlp.gate_proj.weight`)[0],
      num_hidden_layers: shapes.count(/^model\.layers\.(\d+)\./),
      num_attention_heads: shapes.of(`${first}.self_attn.q_proj.weight`)[0] / MISTRAL_HEAD_WIDTH,
      num_key_value_heads: shapes.of(`${first}.self_attn.k_proj.weight`)[0] / MISTRAL_HEAD_WIDTH,
      head_dim: MISTRAL_HEAD_WIDTH,
      rms_norm_eps: 1e-5,
      rope_theta: 1_000_000_000,
    },
  };
}

/** As {@link qwen3Config}. */
export function qwenVlConfig(shapes: Shapes): Record<string, unknown> {
  const root = shapes.has('model.language_model.norm.weight') ? 'model.language_model' : 'model';
  const [vocabulary, width] = shapes.of(`${root}.embed_tokens.weight`);
  const first = `${root}.layers.0`;
  return {
    vocab_size: vocabulary,
    hidden_size: width,
    intermediate_size: shapes.of(`${first}.mlp.gate_proj.weight`)[0],
    num_hidden_layers: shapes.count(/^model\.(?:language_model\.)?layers\.(\d+)\./),
    num_attention_heads: width / QWEN_VL_HEAD_WIDTH,
    num_key_value_heads: shapes.of(`${first}.self_attn.k_proj.weight`)[0] / QWEN_VL_HEAD_WIDTH,
    rms_norm_eps: 1e-6,
    rope_theta: 1_000_000,
    rope_scaling: { rope_type: 'default', mrope_section: [16, 24, 24] },
    ...qwenVisionConfig(shapes),
  };
}

/** Its eyes, which GGUF files have not. */
function qwenVisionConfig(shapes: Shapes): Record<string, unknown> {
  const root = shapes.has(`visual.${PATCH_EMBEDDING}`) ? 'visual' : 'model.visual';
  const depth = shapes.count(/^(?:model\.)?visual\.blocks\.(\d+)\./);
  const [width] = shapes.of(`${root}.${PATCH_EMBEDDING}`);
  return depth === 0
    ? {}
    : {
        vision_config: {
          depth,
          hidden_size: width,
          intermediate_size: shapes.of(`${root}.blocks.0.mlp.gate_proj.weight`)[0],
          num_heads: 16,
          patch_size: shapes.of(`${root}.${PATCH_EMBEDDING}`)[3],
          temporal_patch_size: shapes.of(`${root}.${PATCH_EMBEDDING}`)[2],
          out_hidden_size: shapes.of(`${root}.merger.mlp.2.weight`)[0],
          // The last layer of each quarter sees everything.
          fullatt_block_indexes: each(4, (quarter) => ((quarter + 1) * depth) / 4 - 1),
        },
      };
}

const PATCH_EMBEDDING = 'patch_embed.proj.weight';

/** @returns what `at` gives for 0 to `count` − 1 */
export function each<T>(count: number, at: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => at(index));
}
