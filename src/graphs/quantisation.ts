/**
 * Which weights are stored in quantised blocks, and their layout: for `com.microsoft.MatMulNBits`, a matrix [N, K] is cut into blocks of 32
 * elements along K. An element is scale · (q − 2^(bits − 1)), where q is a byte, or four bits of one with the earlier element in the lower
 * half; each block has one scale. The block size is 32 because only that reaches ONNX Runtime's fast kernel.
 */
import type { WeightVariant } from '../core/model.ts';
import type { Bits, BlockType, StoredTensor } from './graph.ts';

/** Elements that share a scale. */
export const BLOCK = 32;

/**
 * Minimum elements of a matrix to be quantised at all, and to 4 bits. Smaller ones save no space worth having, and cost quality: with those of
 * 16,384 at 4 bits the built-in checkpoint's UNet is off by 5.1 %, without them by 4.2 %. The smallest matrix of Stable Diffusion has
 * 102,400.
 */
const FEWEST: Record<Bits, number> = { 8: 4096, 4: 32768 };

/**
 * Linear layers by kind, with the bits that each variant gives them; everything else (embeddings, norms, biases, convolutions that
 * are not 1×1, the autoencoder, the time embedding, first and last layer) stays as it is.
 *
 * Measured on the first built-in checkpoint, whose UNet was trained (relative error of its output, L2, one kind at 4 bits): shortcuts
 * 2.5 %, attn.to_out 1.6 %, to_q and to_k 1.5 %, proj_in and proj_out 1.2 %, to_v 1.2 %, feed-forward 0.8 % and 0.6 %, time_emb_proj
 * 0.3 %. The layers that the picture's residual stream passes through have few weights but cost much, so they keep 8 bits: 4.0 % instead of 5.8 %
 * together. So does the text encoder, where 4 bits cost 9 % and which every step depends on.
 */
const KINDS: { layer: RegExp; q8: Bits; q4: Bits }[] = [
  // UNet2DConditionModel.
  { layer: /^(?:down|mid|up)_block.*\.transformer_blocks\.\d+\.attn[12]\.to_(?:[qkv]|out\.0)$/, q8: 8, q4: 4 },
  { layer: /^(?:down|mid|up)_block.*\.transformer_blocks\.\d+\.ff\.net\.(?:0\.proj|2)$/, q8: 8, q4: 4 },
  { layer: /^(?:down|mid|up)_block.*\.resnets\.\d+\.time_emb_proj$/, q8: 8, q4: 4 },
  { layer: /^(?:down|mid|up)_block.*\.attentions\.\d+\.proj_(?:in|out)$/, q8: 8, q4: 8 },
  { layer: /^(?:down|mid|up)_block.*\.resnets\.\d+\.conv_shortcut$/, q8: 8, q4: 8 },
  // CLIPTextModel.
  { layer: /^(?:text_model\.)?encoder\.layers\.\d+\.self_attn\.(?:q|k|v|out)_proj$/, q8: 8, q4: 8 },
  { layer: /^(?:text_model\.)?encoder\.layers\.\d+\.mlp\.fc[12]$/, q8: 8, q4: 8 },
  // Qwen3ForCausalLM, Qwen2_5_VLForConditionalGeneration and Mistral3ForConditionalGeneration.
  { layer: /^(?:(?:model|language_model)\.){0,2}layers\.\d+\.self_attn\.[qkvo]_proj$/, q8: 8, q4: 4 },
  { layer: /^(?:(?:model|language_model)\.){0,2}layers\.\d+\.mlp\.(?:gate|up|down)_proj$/, q8: 8, q4: 4 },
  { layer: /^(?:model\.)?visual\.blocks\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.(?:gate|up|down)_proj)$/, q8: 8, q4: 8 },
  // T5EncoderModel and UMT5EncoderModel.
  { layer: /^encoder\.block\.\d+\.layer\.0\.SelfAttention\.[qkvo]$/, q8: 8, q4: 4 },
  { layer: /^encoder\.block\.\d+\.layer\.1\.DenseReluDense\.w(?:i|i_0|i_1|o)$/, q8: 8, q4: 4 },
  // ZImageTransformer2DModel.
  { layer: /^(?:layers|(?:noise|context)_refiner)\.\d+\.attention\.to_(?:[qkv]|out\.0)$/, q8: 8, q4: 4 },
  { layer: /^(?:layers|(?:noise|context)_refiner)\.\d+\.feed_forward\.w[123]$/, q8: 8, q4: 4 },
  // AceStepTransformer1DModel, AceStepConditionEncoder and the two networks of covers.
  {
    layer:
      /^(?:(?:lyric_encoder|timbre_encoder|attention_pooler)\.)?layers\.\d+\.(?:self|cross)_attn\.to_(?:[qkv]|out\.0)$/,
    q8: 8,
    q4: 4,
  },
  {
    layer: /^(?:lyric_encoder|timbre_encoder|attention_pooler)\.layers\.\d+\.mlp\.(?:gate|up|down)_proj$/,
    q8: 8,
    q4: 4,
  },
  { layer: /^time_embed(?:_r)?\.time_proj$/, q8: 8, q4: 8 },
  // HeartMuLa, and the flow of HeartCodec.
  { layer: /^(?:backbone|decoder)\.layers\.\d+\.(?:attn\.(?:[qkv]|output)_proj|mlp\.w[123])$/, q8: 8, q4: 4 },
  { layer: /^(?:projection|codebook0_head)$/, q8: 8, q4: 8 },
  {
    layer: /^flow_matching\.estimator\.transformer_blocks(?:_2)?\.\d+\.(?:attn\.[qkvo]_proj|mlp\.(?:gate|up|down))$/,
    q8: 8,
    q4: 4,
  },
  // Flux2Transformer2DModel.
  { layer: /^transformer_blocks\.\d+\.attn\.(?:to_(?:[qkv]|out\.0|add_out)|add_[qkv]_proj)$/, q8: 8, q4: 4 },
  { layer: /^transformer_blocks\.\d+\.ff(?:_context)?\.linear_(?:in|out)$/, q8: 8, q4: 4 },
  { layer: /^single_transformer_blocks\.\d+\.attn\.to_(?:qkv_mlp_proj|out)$/, q8: 8, q4: 4 },
  { layer: /^(?:double|single)_stream_modulation(?:_img|_txt)?\.linear$/, q8: 8, q4: 8 },
  // Flux3Transformer2DModel, which has its joint blocks' names for the rest.
  {
    layer:
      /^(?:(?:txt_mode_blocks|mode_blocks\.\w+)\.\d+\.(?:attn\.to_(?:[qkv]|out\.0)|ff\.linear_(?:in|out))|single_transformer_blocks\.\d+\.(?:attn\.to_out\.0|ff\.linear_(?:in|out)))$/,
    q8: 8,
    q4: 4,
  },
  { layer: /^(?:early|single)_stream_modulations\.\w+\.linear$/, q8: 8, q4: 8 },
  // SD3Transformer2DModel and FluxTransformer2DModel share its names for attention.
  { layer: /^transformer_blocks\.\d+\.attn2\.to_(?:[qkv]|out\.0)$/, q8: 8, q4: 4 },
  { layer: /^transformer_blocks\.\d+\.ff(?:_context)?\.net\.(?:0\.proj|2)$/, q8: 8, q4: 4 },
  { layer: /^single_transformer_blocks\.\d+\.(?:attn\.to_[qkv]|proj_mlp|proj_out)$/, q8: 8, q4: 4 },
  { layer: /^(?:single_)?transformer_blocks\.\d+\.norm(?:1|1_context)?\.linear$/, q8: 8, q4: 8 },
  // QwenImageTransformer2DModel, a third of whose weights modulate.
  { layer: /^transformer_blocks\.\d+\.(?:img|txt)_(?:mlp\.net\.(?:0\.proj|2)|mod\.1)$/, q8: 8, q4: 4 },
  // WanTransformer3DModel.
  { layer: /^blocks\.\d+\.attn[12]\.(?:to_(?:[qkv]|out\.0)|add_[kv]_proj)$/, q8: 8, q4: 4 },
  { layer: /^blocks\.\d+\.ffn\.net\.(?:0\.proj|2)$/, q8: 8, q4: 4 },
  { layer: /^condition_embedder\.time_proj$/, q8: 8, q4: 8 },
  { layer: /^context_embedder$/, q8: 8, q4: 8 },
  { layer: /^(?:layers|noise_refiner)\.\d+\.adaLN_modulation\.0$/, q8: 8, q4: 8 },
];

/**
 * @param name of the tensor, such as `mid_block.attentions.0.proj_in.weight`
 * @param shape [N, K] or, of a 1×1 convolution, [N, K, 1, 1]
 * @returns the bits per element that the variant gives this tensor, null if it stays as it is
 */
export function quantisedBits(name: string, shape: readonly number[], variant: WeightVariant): Bits | null {
  const [n, k, ...kernel] = shape;
  if (
    variant === 'full' ||
    !name.endsWith('.weight') ||
    (kernel.length !== 0 && kernel.length !== 2) ||
    kernel.some((side) => side !== 1) ||
    !(n * k >= FEWEST[8]) ||
    k % BLOCK !== 0
  ) {
    return null;
  }
  const layer = name.slice(0, -'.weight'.length);
  const bits = KINDS.find((kind) => kind.layer.test(layer))?.[variant] ?? null;
  return bits !== null && n * k < FEWEST[bits] ? 8 : bits;
}

/** Block types that become ours by rearranging bits. */
const SHUFFLED: Partial<Record<BlockType, Bits>> = { Q4_0: 4, Q8_0: 8 };

/**
 * A tensor's bits per element on the device: as stored in its file, else as the variant asks; null if unquantised.
 * @param shape as for {@link quantisedBits}
 */
export function bitsOnDevice(
  { name, quantised, blocks }: StoredTensor,
  shape: readonly number[],
  variant: WeightVariant,
): Bits | null {
  const kept = quantised?.bits ?? (blocks && shape.length > 1 ? SHUFFLED[blocks] : undefined);
  return kept ?? quantisedBits(name, shape, variant);
}
