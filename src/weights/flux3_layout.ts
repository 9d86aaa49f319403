/**
 * FLUX.3 in its original code: which of its layers is which of diffusers' modules. The code has streams for videos and sounds as well; those of
 * pictures, of reference pictures and of words are read.
 * Reference: diffusers/loaders/single_file_utils.py (convert_flux3_transformer_checkpoint_to_diffusers),
 * loaders/lora_conversion_utils.py (_convert_non_diffusers_flux3_lora_to_diffusers)
 */
import { shiftFirst, whole, type LayerPart } from './layer_parts.ts';

const LAYERS: Record<string, string> = {
  'emb_in.image': 'x_embedders.image',
  'emb_in.image_cond': 'x_embedders.image_cond',
  txt_in: 'context_embedder',
  'time_in.in_layer': 'timestep_embedder.linear_1',
  'time_in.out_layer': 'timestep_embedder.linear_2',
  // Of the distilled ones, which are told where a step leads.
  'ref_time_in.in_layer': 'target_timestep_embedder.linear_1',
  'ref_time_in.out_layer': 'target_timestep_embedder.linear_2',
  'final_layer.image.linear': 'proj_out',
  ...Object.fromEntries(
    ['early', 'single'].flatMap((stage) =>
      ['image', 'image_cond', 'txt'].map((mode) => {
        const path = `${stage}_stream_modulations.${mode}`;
        return [`${path}.lin`, `${path}.linear`];
      }),
    ),
  ),
};

const BLOCKS: Record<string, string> = {
  'content_mode_blocks.image': 'mode_blocks.image',
  'content_mode_blocks.image_cond': 'mode_blocks.image_cond',
  txt_mode_blocks: 'txt_mode_blocks',
  single_blocks: 'single_transformer_blocks',
};

const BLOCK: Record<string, string> = {
  q_proj: 'attn.to_q',
  k_proj: 'attn.to_k',
  v_proj: 'attn.to_v',
  attn_out: 'attn.to_out.0',
  'norm.query_norm': 'attn.norm_q',
  'norm.key_norm': 'attn.norm_k',
  mlp_in: 'ff.linear_in',
  mlp_out: 'ff.linear_out',
};

/** The layer that shifts and scales before the last one. */
const HEAD = 'final_layer.image.adaLN_modulation.1';

export function flux3Parts(path: string): LayerPart[] {
  if (path === HEAD) {
    return shiftFirst('norm_out.linear');
  }
  const [, stack, block, rest] = /^(.+?)\.(\d+)\.(.+)$/.exec(path) ?? [];
  if (block === undefined || BLOCKS[stack] === undefined) {
    return whole(LAYERS[path]);
  }
  return BLOCK[rest] === undefined ? [] : whole(`${BLOCKS[stack]}.${block}.${BLOCK[rest]}`);
}

/** All layers of so many blocks of each kind. */
export function flux3Paths(blocks: number): string[] {
  const numbers = Array.from({ length: blocks }, (_, n) => n);
  return [
    ...Object.keys(LAYERS),
    HEAD,
    ...Object.keys(BLOCKS).flatMap((stack) =>
      numbers.flatMap((n) => Object.keys(BLOCK).map((rest) => `${stack}.${n}.${rest}`)),
    ),
  ];
}
