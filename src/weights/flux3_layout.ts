/**
 * FLUX.3 in its original code, by whose names LoRAs call its layers.
 * Reference: diffusers/loaders/lora_conversion_utils.py (_convert_non_diffusers_flux3_lora_to_diffusers) and
 * loaders/single_file_utils.py (convert_flux3_transformer_checkpoint_to_diffusers)
 */

/** Of diffusers' paths: what becomes what, each at most once. */
const NAMES: readonly [diffusers: RegExp, original: string][] = [
  [/^mode_blocks\./, 'content_mode_blocks.'],
  [/^single_transformer_blocks\./, 'single_blocks.'],
  [/^x_embedders\./, 'emb_in.'],
  [/^context_embedder$/, 'txt_in'],
  [/^timestep_embedder\.linear_1$/, 'time_in.in_layer'],
  [/^timestep_embedder\.linear_2$/, 'time_in.out_layer'],
  [/^target_timestep_embedder\.linear_1$/, 'ref_time_in.in_layer'],
  [/^target_timestep_embedder\.linear_2$/, 'ref_time_in.out_layer'],
  [/^proj_out$/, 'final_layer.image.linear'],
  [/^((?:early|single)_stream_modulations\.\w+)\.linear$/, '$1.lin'],
  [/\.attn\.to_([qkv])$/, '.$1_proj'],
  [/\.attn\.to_out\.0$/, '.attn_out'],
  [/\.ff\.linear_(in|out)$/, '.mlp_$1'],
];

/** A tensor by which this transformer is told from the others. */
export const FLUX3 = 'early_stream_modulations.txt.linear.weight';

/** @param path of a layer in diffusers' modules @returns the original code's */
export function flux3Original(path: string): string {
  return NAMES.reduce((name, [diffusers, original]) => name.replace(diffusers, original), path);
}
