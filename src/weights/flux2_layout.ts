/**
 * FLUX.2 in its original code: which of its layers is which of diffusers' modules.
 * Reference: diffusers/loaders/single_file_utils.py (convert_flux2_transformer_checkpoint_to_diffusers),
 * diffusers' scripts/convert_flux2_to_diffusers.py for the autoencoder
 */
import { HEAD_MODULATION, shiftFirst, together, whole, type LayerPart } from './layer_parts.ts';
import { vaePath } from './original_layout.ts';

const LAYERS: Record<string, string> = {
  img_in: 'x_embedder',
  txt_in: 'context_embedder',
  'time_in.in_layer': 'time_guidance_embed.timestep_embedder.linear_1',
  'time_in.out_layer': 'time_guidance_embed.timestep_embedder.linear_2',
  'guidance_in.in_layer': 'time_guidance_embed.guidance_embedder.linear_1',
  'guidance_in.out_layer': 'time_guidance_embed.guidance_embedder.linear_2',
  'double_stream_modulation_img.lin': 'double_stream_modulation_img.linear',
  'double_stream_modulation_txt.lin': 'double_stream_modulation_txt.linear',
  'single_stream_modulation.lin': 'single_stream_modulation.linear',
  'final_layer.linear': 'proj_out',
};

/** By the stream that they are of: `img_…`, and `txt_…`. */
const DOUBLE: Record<string, [picture: string, words: string]> = {
  'attn.norm.query_norm': ['attn.norm_q', 'attn.norm_added_q'],
  'attn.norm.key_norm': ['attn.norm_k', 'attn.norm_added_k'],
  'attn.proj': ['attn.to_out.0', 'attn.to_add_out'],
  'mlp.0': ['ff.linear_in', 'ff_context.linear_in'],
  'mlp.2': ['ff.linear_out', 'ff_context.linear_out'],
};

const SINGLE: Record<string, string> = {
  'norm.query_norm': 'attn.norm_q',
  'norm.key_norm': 'attn.norm_k',
  linear1: 'attn.to_qkv_mlp_proj',
  linear2: 'attn.to_out',
};

export function flux2Parts(path: string): LayerPart[] {
  if (path === HEAD_MODULATION) {
    return shiftFirst('norm_out.linear');
  }
  const [, double, stream, rest] = /^double_blocks\.(\d+)\.(img|txt)_(.+)$/.exec(path) ?? [];
  if (double !== undefined) {
    const base = `transformer_blocks.${double}`;
    const words = stream === 'txt';
    if (rest === 'attn.qkv') {
      return together(`${base}.attn`, words);
    }
    const own = DOUBLE[rest]?.[words ? 1 : 0];
    return own ? whole(`${base}.${own}`) : [];
  }
  const [, single, inner] = /^single_blocks\.(\d+)\.(.+)$/.exec(path) ?? [];
  if (single === undefined) {
    return whole(LAYERS[path]);
  }
  return SINGLE[inner] === undefined ? [] : whole(`single_transformer_blocks.${single}.${SINGLE[inner]}`);
}

/** All layers of so many blocks of each kind. */
export function flux2Paths(blocks: number): string[] {
  const numbers = Array.from({ length: blocks }, (_, n) => n);
  return [
    ...Object.keys(LAYERS),
    ...numbers.flatMap((n) => [
      ...['img', 'txt'].flatMap((stream) =>
        ['attn.qkv', ...Object.keys(DOUBLE)].map((rest) => `double_blocks.${n}.${stream}_${rest}`),
      ),
      ...Object.keys(SINGLE).map((rest) => `single_blocks.${n}.${rest}`),
    ]),
  ];
}

/** Of its autoencoder, which has the convolutions around the latents within its two halves; see {@link vaePath}. */
export function flux2VaePath(path: string, lastUp: number): string | null {
  const [, own] = /^(?:encoder|decoder)\.((?:post_)?quant_conv)$/.exec(path) ?? [];
  return own ?? vaePath(path, lastUp);
}
