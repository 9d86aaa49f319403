/**
 * LTX-Video as its authors publish it, transformer and autoencoder in one file: which of its tensors is which of diffusers' modules.
 * Reference: diffusers/loaders/single_file_utils.py (convert_ltx_transformer_checkpoint_to_diffusers, convert_ltx_vae_checkpoint_to_diffusers)
 */
import { each, type Shapes } from './inferred_configs.ts';
import { whole, type LayerPart } from './layer_parts.ts';

/** A tensor that no other autoencoder has. */
export const LTX_VAE = 'per_channel_statistics.std-of-means';
/** Of LTX-2, which is another network with the same first layer. */
export const LTX2_PART = 'audio_adaln_single.linear.weight';
/** The encoders before 0.9.5 have a block more. */
const OLDER = 'encoder.down_blocks.9.';

/** Heads of every published transformer, since no norm of its queries tells them. */
const HEADS = 32;

export function ltxParts(path: string): LayerPart[] {
  return whole(
    path
      .replace(/^patchify_proj$/, 'proj_in')
      .replace(/^adaln_single(?=\.)/, 'time_embed')
      .replace(/\.([qk])_norm$/, '.norm_$1'),
  );
}

/** Layers of the transformer that are called otherwise than in diffusers, by their paths in the original code. */
export function ltxPaths(blocks: number): string[] {
  const time = ['emb.timestep_embedder.linear_1', 'emb.timestep_embedder.linear_2', 'linear'];
  const norms = ['attn1', 'attn2'].flatMap((attention) => [`${attention}.q_norm`, `${attention}.k_norm`]);
  return [
    'patchify_proj',
    ...time.map((layer) => `adaln_single.${layer}`),
    ...Array.from({ length: blocks }, (_, n) => norms.map((norm) => `transformer_blocks.${n}.${norm}`)).flat(),
  ];
}

/** A tensor of the transformer that is no weight or bias of a layer. */
export function ltxTable(name: string): string | undefined {
  return /^(?:transformer_blocks\.\d+\.)?scale_shift_table$/.test(name) ? name : undefined;
}

/** Numbered as one list there, and by their block here. */
const OLDER_UP = ['mid_block', 'up_blocks.0', 'up_blocks.1.upsamplers.0', 'up_blocks.1'].concat(
  [2, 3].flatMap((n) => [`up_blocks.${n}.conv_in`, `up_blocks.${n}.upsamplers.0`, `up_blocks.${n}`]),
);
const OLDER_DOWN = [0, 1]
  .flatMap((n) => [`down_blocks.${n}`, `down_blocks.${n}.downsamplers.0`, `down_blocks.${n}.conv_out`])
  .concat('down_blocks.2', 'down_blocks.2.downsamplers.0', 'down_blocks.3', 'mid_block');
const UP = ['mid_block', ...[0, 1, 2, 3].flatMap((n) => [`up_blocks.${n}.upsamplers.0`, `up_blocks.${n}`])];
const DOWN = [...[0, 1, 2, 3].flatMap((n) => [`down_blocks.${n}`, `down_blocks.${n}.downsamplers.0`]), 'mid_block'];

const STATISTICS: Record<string, string> = {
  'per_channel_statistics.mean-of-means': 'latents_mean',
  [LTX_VAE]: 'latents_std',
};

/**
 * Reads names of tensors in the autoencoder.
 * @param names all of it; they tell its version
 * @returns the name in diffusers' module; null for what is no tensor of it
 */
export function ltxVaeNames(names: readonly string[]): (name: string) => string | null {
  const isOlder = names.some((name) => name.startsWith(OLDER));
  // That of 0.9.1 has the older encoder and a decoder like the newer one.
  const up = names.some((name) => name.startsWith('decoder.up_blocks.9.')) ? OLDER_UP : UP;
  const down = isOlder ? OLDER_DOWN : DOWN;
  return (name) => {
    if (STATISTICS[name] !== undefined) {
      return STATISTICS[name];
    }
    const [, side, rest] = /^(encoder|decoder)\.(.+)$/.exec(name) ?? [];
    if (side === undefined) {
      return null;
    }
    const own = rest
      .replace(/^(up|down)_blocks\.(\d+)(?=\.)/, (found, way, n) => (way === 'up' ? up : down)[Number(n)] ?? found)
      .replace('res_blocks', 'resnets')
      .replace('norm3.norm', 'norm3')
      .replace('conv_shortcut', 'conv_shortcut.conv')
      .replace(/^last_(?=time_embedder|scale_shift_table)/, '');
    return `${side}.${own}`;
  };
}

export function ltxConfig(shapes: Shapes): Record<string, unknown> {
  const [dim, channels] = shapes.of('proj_in.weight');
  return {
    in_channels: channels,
    out_channels: shapes.of('proj_out.weight')[0],
    num_attention_heads: HEADS,
    attention_head_dim: dim / HEADS,
    cross_attention_dim: shapes.of('transformer_blocks.0.attn2.to_k.weight')[1],
    num_layers: shapes.count(/^transformer_blocks\.(\d+)\./),
    caption_channels: shapes.of('caption_projection.linear_1.weight')[1],
  };
}

/** Whether it is the autoencoder of 0.9.5 or later, with which another pipeline begins. */
export function isNewerLtx(vae: Shapes): boolean {
  return vae.has('encoder.down_blocks.3.downsamplers.0.conv.conv.weight');
}

/** The ways in which the encoder's blocks reduce, from 0.9.5 on. */
const REDUCING = ['spatial', 'temporal', 'spatiotemporal', 'spatiotemporal'];

export function ltxVaeConfig(shapes: Shapes): Record<string, unknown> {
  const [inner, given] = shapes.of('encoder.conv_in.conv.weight');
  const [, latents] = shapes.of('decoder.conv_in.conv.weight');
  const isNewer = isNewerLtx(shapes);
  const widthOf = (block: string) => shapes.of(`${block}.resnets.0.conv1.conv.weight`)[0];
  const numbersIn = (list: string) => shapes.count(new RegExp(`^${list.replaceAll('.', '\\.')}\\.(\\d+)\\.`));
  const layersOf = (block: string) => numbersIn(`${block}.resnets`);
  const has = (block: string, part: string) => numbersIn(`${block}.${part}`) > 0;
  const downs = each(shapes.count(/^encoder\.down_blocks\.(\d+)\./), (n) => `encoder.down_blocks.${n}`);
  // The decoder's lists are the encoder's way round.
  const ups = each(shapes.count(/^decoder\.up_blocks\.(\d+)\./), (n) => `decoder.up_blocks.${n}`).reverse();
  const [middle, end] = ['encoder.mid_block', 'decoder.mid_block'];
  // From 0.9.1 on the decoder's blocks halve their channels while they double the sides, and add what they were given.
  const halves = shapes.has('decoder.time_embedder.timestep_embedder.linear_1.weight');
  return {
    latent_channels: latents,
    patch_size: Math.sqrt(given / 3),
    block_out_channels: [inner, ...downs.slice(1).map(widthOf), ...(isNewer ? [widthOf(middle)] : [])],
    layers_per_block: [...downs, middle].map(layersOf),
    spatio_temporal_scaling: downs.map((block) => has(block, 'downsamplers')),
    ...(isNewer && { down_block_types: downs.map(() => 'LTXVideo095DownBlock3D'), downsample_type: REDUCING }),
    decoder_block_out_channels: ups.map((block) => widthOf(block) * (halves ? 2 : 1)),
    decoder_layers_per_block: [...ups, end].map(layersOf),
    decoder_spatio_temporal_scaling: ups.map((block) => has(block, 'upsamplers')),
    decoder_inject_noise: [...ups, end].map((block) => shapes.has(`${block}.resnets.0.per_channel_scale1`)),
    upsample_residual: ups.map(() => halves),
    upsample_factor: ups.map(() => (halves ? 2 : 1)),
    timestep_conditioning: halves,
  };
}
