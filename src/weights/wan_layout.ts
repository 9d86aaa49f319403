/**
 * Wan in its original code, transformer and autoencoder: which of its layers is which of diffusers' modules. Qwen-Image has the same
 * autoencoder.
 * Reference: diffusers/loaders/single_file_utils.py (convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers),
 * diffusers/scripts/convert_wan_to_diffusers.py (convert_vae_22)
 */
import { whole, type LayerPart } from './layer_parts.ts';

const ATTENTION: Record<string, string> = {
  q: 'to_q',
  k: 'to_k',
  v: 'to_v',
  o: 'to_out.0',
  norm_q: 'norm_q',
  norm_k: 'norm_k',
};

/** Of the layers of a block. */
const BLOCK: Record<string, string> = {
  ...Object.fromEntries(
    Object.entries({ self_attn: 'attn1', cross_attn: 'attn2' }).flatMap(([path, own]) =>
      Object.entries(ATTENTION).map(([part, layer]) => [`${path}.${part}`, `${own}.${layer}`]),
    ),
  ),
  'cross_attn.k_img': 'attn2.add_k_proj',
  'cross_attn.v_img': 'attn2.add_v_proj',
  'cross_attn.norm_k_img': 'attn2.norm_added_k',
  'ffn.0': 'ffn.net.0.proj',
  'ffn.2': 'ffn.net.2',
  norm3: 'norm2',
};

const LAYERS: Record<string, string> = {
  patch_embedding: 'patch_embedding',
  'time_embedding.0': 'condition_embedder.time_embedder.linear_1',
  'time_embedding.2': 'condition_embedder.time_embedder.linear_2',
  'time_projection.1': 'condition_embedder.time_proj',
  'text_embedding.0': 'condition_embedder.text_embedder.linear_1',
  'text_embedding.2': 'condition_embedder.text_embedder.linear_2',
  'img_emb.proj.0': 'condition_embedder.image_embedder.norm1',
  'img_emb.proj.1': 'condition_embedder.image_embedder.ff.net.0.proj',
  'img_emb.proj.3': 'condition_embedder.image_embedder.ff.net.2',
  'img_emb.proj.4': 'condition_embedder.image_embedder.norm2',
  'head.head': 'proj_out',
};

export function wanParts(path: string): LayerPart[] {
  const [, block, rest] = /^blocks\.(\d+)\.(.+)$/.exec(path) ?? [];
  if (block === undefined) {
    return whole(LAYERS[path]);
  }
  return BLOCK[rest] === undefined ? [] : whole(`blocks.${block}.${BLOCK[rest]}`);
}

/** All layers of so many blocks. */
export function wanPaths(blocks: number): string[] {
  const numbers = Array.from({ length: blocks }, (_, n) => n);
  return [...Object.keys(LAYERS), ...numbers.flatMap((n) => Object.keys(BLOCK).map((rest) => `blocks.${n}.${rest}`))];
}

/** A tensor that is no weight or bias of a layer. */
export function wanTable(name: string): string | undefined {
  if (name === 'img_emb.emb_pos') {
    return 'condition_embedder.image_embedder.pos_embed';
  }
  return /^(?:blocks\.\d+|head)\.modulation$/.test(name)
    ? name.replace(/modulation$/, 'scale_shift_table').replace(/^head\./, '')
    : undefined;
}

/** A tensor that the autoencoders of Wan have, and one that only that of 2.2 has. */
export const WAN_VAE = 'decoder.middle.0.residual.0.gamma';
const WAN22_VAE = 'decoder.upsamples.0.upsamples.0.residual.2.weight';

const RESIDUAL: Record<string, string> = {
  'residual.0': 'norm1',
  'residual.2': 'conv1',
  'residual.3': 'norm2',
  'residual.6': 'conv2',
  shortcut: 'conv_shortcut',
};

const ENDS: Record<string, string> = {
  conv1: 'quant_conv',
  conv2: 'post_quant_conv',
  'encoder.conv1': 'encoder.conv_in',
  'decoder.conv1': 'decoder.conv_in',
  'encoder.head.0': 'encoder.norm_out',
  'encoder.head.2': 'encoder.conv_out',
  'decoder.head.0': 'decoder.norm_out',
  'decoder.head.2': 'decoder.conv_out',
};

/**
 * Reads paths of layers in the autoencoder.
 * @param names all of it; they tell how many layers lie between two enlargements
 * @returns the path in diffusers' modules; null for what is none
 */
export function wanVaePaths(names: Iterable<string>): (path: string) => string | null {
  const enlargements = [...names].flatMap((name) => /^decoder\.upsamples\.(\d+)\.resample\./.exec(name)?.[1] ?? []);
  const before = Math.min(...enlargements.map(Number));
  const isResidual = new Set(names).has(WAN22_VAE);
  return (path) => {
    if (ENDS[path] !== undefined) {
      return ENDS[path];
    }
    const [, coder, middle, inner] = /^(encoder|decoder)\.middle\.([012])\.(.+)$/.exec(path) ?? [];
    if (middle === '1') {
      return `${coder}.mid_block.attentions.0.${inner}`;
    }
    if (middle !== undefined) {
      return RESIDUAL[inner] === undefined
        ? null
        : `${coder}.mid_block.resnets.${middle === '0' ? 0 : 1}.${RESIDUAL[inner]}`;
    }
    const [, side, number, rest] = /^(encoder\.down|decoder\.up)samples\.(\d+)\.(.+)$/.exec(path) ?? [];
    if (side === undefined) {
      return null;
    }
    if (isResidual) {
      return levelPath(side, number, rest);
    }
    const own = RESIDUAL[rest] ?? rest;
    if (side === 'encoder.down') {
      return `encoder.down_blocks.${number}.${own}`;
    }
    // Numbered as one list there, and by their block here.
    const [block, layer] = [Math.floor(Number(number) / (before + 1)), Number(number) % (before + 1)];
    return `decoder.up_blocks.${block}.${layer === before ? 'upsamplers.0' : `resnets.${layer}`}.${own}`;
  };
}

/** In Wan 2.2's autoencoder each level has a list of its own: its residual layers, and behind them what halves or doubles. */
function levelPath(side: string, level: string, rest: string): string | null {
  const isDown = side === 'encoder.down';
  const [, number, inner] = /^(?:down|up)samples\.(\d+)\.(.+)$/.exec(rest) ?? [];
  if (number === undefined) {
    return null;
  }
  const own = RESIDUAL[inner];
  return `${side}_blocks.${level}.${own === undefined ? `${isDown ? 'down' : 'up'}sampler.${inner}` : `resnets.${number}.${own}`}`;
}
