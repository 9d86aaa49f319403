/**
 * Whose LoRA a file is, and whose layers a checkpoint has: told by names of layers as diffusers, kohya's trainers and the original codes have them,
 * and by shapes where families share these.
 *
 * Reference: diffusers/loaders/lora_conversion_utils.py and the transformers of diffusers/models/transformers
 */

/** What is changed, or is there. */
export interface NamedLayer {
  /** With dots, or as kohya's trainers write it; with or without whose network it is. */
  name: string;
  /** Numbers given and taken; absent where they are not known. */
  rows?: number | undefined;
  columns?: number | undefined;
}

const UNETS = 'Stable Diffusion';
/** Numbers of a text's token that the UNets read. */
const UNET_WIDTHS: Readonly<Record<number, string>> = {
  768: 'Stable Diffusion 1',
  1024: 'Stable Diffusion 2',
  2048: 'Stable Diffusion XL',
};

const UNET = /^(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks)_/;
const UNET_TEXT = /attn2_to_[kv]$/;

/** The first that fits the name of some layer says which families it may be. */
const TRANSFORMERS: readonly [name: RegExp, families: readonly string[]][] = [
  [/^(?:txt_|content_)?mode_blocks_|^(?:early|single)_stream_modulations_/, ['FLUX.3']],
  [/^single_blocks_\d+_(?:[qkv]_proj|attn_out|mlp_(?:in|out))$/, ['FLUX.3']],
  [/^single_transformer_blocks_\d+_(?:ff_linear_|attn_to_out_0$)/, ['FLUX.3']],
  [/^single_transformer_blocks_\d+_attn_(?:to_qkv_mlp_proj|to_out)$|^(?:double|single)_stream_modulation_/, ['FLUX.2']],
  [/^transformer_blocks_\d+_ff(?:_context)?_linear_/, ['FLUX.2']],
  [/^single_transformer_blocks_\d+_(?:proj_mlp|proj_out|norm_linear)$/, ['FLUX.1']],
  [/^(?:double_blocks_\d+_(?:img|txt)_mod|single_blocks_\d+_modulation)_lin$/, ['FLUX.1']],
  [/^double_blocks_\d+_(?:img|txt)_(?:mod_linear|mlp_fc\d)$/, ['HunyuanVideo']],
  [/^joint_blocks_\d+_|^pos_embed_proj$/, ['Stable Diffusion 3']],
  [/^transformer_blocks_\d+_(?:img|txt)_(?:mlp_net_|mod_1$)/, ['Qwen-Image']],
  [/^(?:noise|context)_refiner_\d+_|^layers_\d+_(?:attention_|feed_forward_w\d|adaLN_modulation_)/, ['Z-Image']],
  [/^transformer_blocks_\d+_attn1_to_|^(?:caption_projection|adaln_single)_|^patchify_proj$/, ['LTX-Video']],
  [/^transformer_blocks_\d+_attn2_/, ['LTX-Video', 'Stable Diffusion 3']],
  [/^blocks_\d+_(?:self_attn_|cross_attn_|ffn_|attn\d_)/, ['Wan']],
  [/^single_transformer_blocks_\d+_attn_to_[qkv]$/, ['FLUX.1', 'FLUX.3']],
  [/^transformer_blocks_\d+_(?:norm1_context_linear|ff_context_net_)/, ['FLUX.1', 'Stable Diffusion 3']],
  [/^(?:double|single)_blocks_\d+_/, ['FLUX.1', 'FLUX.2']],
  [/^transformer_blocks_\d+_attn_(?:to_|add_)/, ['FLUX.1', 'FLUX.2', 'Qwen-Image', 'Stable Diffusion 3']],
];

/** Of the original code of FLUX: how many times as much a layer gives as it takes, where that tells the two. */
const FLUX_RATIOS: readonly [name: RegExp, ratios: Readonly<Record<string, number>>][] = [
  [/^single_blocks_\d+_linear1$/, { 'FLUX.1': 7, 'FLUX.2': 9 }],
  [/^single_blocks_\d+_linear2$/, { 'FLUX.1': 1 / 5, 'FLUX.2': 1 / 4 }],
  [/^double_blocks_\d+_(?:img|txt)_mlp_0$/, { 'FLUX.1': 4, 'FLUX.2': 6 }],
  [/^double_blocks_\d+_(?:img|txt)_mlp_2$/, { 'FLUX.1': 1 / 4, 'FLUX.2': 1 / 3 }],
];
/** What Stable Diffusion 3's layers take, and no other's that are called so. */
const SD3_WIDTHS = [1536, 2432];
/** Of one block with both of these, the first is of text and picture together, which LTX-Video's are not. */
const TOGETHER = /^transformer_blocks_\d+_attn_/;

/** @returns the families that it may be of, as people call them, a UNet's with its kind where that is known; none where nothing tells */
export function familiesOf(layers: readonly NamedLayer[]): readonly string[] {
  const named = layers.map(({ name, rows = NaN, columns = NaN }) => ({ name: bare(name), rows, columns }));
  if (named.some(({ name }) => UNET.test(name))) {
    const text = named.find(({ name, columns }) => UNET_TEXT.test(name) && columns in UNET_WIDTHS);
    return [text ? UNET_WIDTHS[text.columns] : UNETS];
  }
  const [, families = []] = TRANSFORMERS.find(([pattern]) => named.some(({ name }) => pattern.test(name))) ?? [];
  if (families.length < 2) {
    return families;
  }
  for (const [pattern, ratios] of FLUX_RATIOS) {
    const told = named.find(({ name }) => pattern.test(name));
    const [family] = Object.entries(ratios).find(([, ratio]) => told && told.rows === ratio * told.columns) ?? [];
    if (family !== undefined) {
      return [family];
    }
  }
  const isSd3 = named.some(
    ({ name, columns }) =>
      TOGETHER.test(name) &&
      (families.includes('LTX-Video') || (/_to_[qkv]$/.test(name) && SD3_WIDTHS.includes(columns))),
  );
  return isSd3 ? ['Stable Diffusion 3'] : families;
}

/** Whether what is for one UNet may have parts that another one has, too. */
export function areUnets(...families: (readonly string[])[]): boolean {
  return families.every(
    (own) => own.length > 0 && own.every((name) => Object.values(UNET_WIDTHS).includes(name) || name === UNETS),
  );
}

/**
 * Which family a LoRA is for, if that is another one than the checkpoint's, as a sentence's middle; null where it is the same or nothing tells.
 * @param theirs of the LoRA, own of the checkpoint, see {@link familiesOf}
 */
export function otherFamily(theirs: readonly string[], own: readonly string[]): string | null {
  const [ours] = own;
  // A UNet's kind that is not known may be any.
  const isVague = areUnets(theirs, own) && [...theirs, ...own].includes(UNETS);
  if (own.length !== 1 || theirs.length === 0 || theirs.includes(ours) || isVague) {
    return null;
  }
  const names = theirs.join(' / ');
  return `looks like one for ${names}, and this checkpoint is ${ours}; choose a LoRA for ${ours}, or a checkpoint of ${names}`;
}

/** A layer's path without whose network it is, with underscores for dots. */
function bare(name: string): string {
  return name
    .replace(/^(?:base_model\.model\.)?(?:(?:model\.)?diffusion_model|transformer|unet)\./, '')
    .replaceAll('.', '_')
    .replace(/^(?:lora_unet|lora_transformer|lycoris_transformer|lycoris_unet|lycoris)_/, '');
}
