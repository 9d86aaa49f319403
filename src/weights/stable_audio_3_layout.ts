/**
 * Stable Audio 3 as its authors publish it: one file of weights for what are three modules in diffusers, or four with the text encoder, and one
 * configuration. Reference: diffusers/scripts/convert_stable_audio_3_to_diffusers.py
 */
import type { StoredTensor } from '../graphs/graph.ts';
import { Shapes } from './inferred_configs.ts';
import { conditionIn, numberOr, objectIn } from './stable_audio_settings.ts';

export type StableAudio3Part = 'transformer' | 'vae' | 'duration_embedder' | 'text_encoder';

/** Tensors of its transformer, and of what stands in place of words. */
export const STABLE_AUDIO_3_PARTS = [
  'model.model.transformer.layers.0.self_attn.to_qkv.weight',
  'conditioner.conditioners.prompt.padding_embedding',
];

/** What the queries, keys and values of this layout are called in a configuration; see `stable_audio_layers.ts`. */
const ORDER = { qkv_order: 'authors' };

/** By the start of the name in the file. */
const STARTS: readonly (readonly [start: string, part: StableAudio3Part, own: (rest: string) => string | null])[] = [
  ['model.model.', 'transformer', ditName],
  ['pretransform.model.', 'vae', sameName],
  ['conditioner.conditioners.seconds_total.embedder.embedding.1.', 'duration_embedder', (rest) => `linear.${rest}`],
  ['conditioner.conditioners.prompt.model.', 'text_encoder', (rest) => rest.replace(/^model\./, '')],
  ['conditioner.conditioners.prompt.padding_embedding', 'transformer', () => 'prompt_padding_embedding'],
];

/** Sorts a file's tensors by diffusers' modules, under the names that they have there. */
export function stableAudio3Tensors(
  tensors: readonly StoredTensor[],
): ReadonlyMap<StableAudio3Part, Map<string, StoredTensor>> {
  const parts = new Map<StableAudio3Part, Map<string, StoredTensor>>();
  for (const tensor of tensors) {
    const [start, part, own] = STARTS.find(([prefix]) => tensor.name.startsWith(prefix)) ?? [];
    const name = own?.(tensor.name.slice(start?.length)) ?? null;
    if (part !== undefined && name !== null) {
      const tensorsOfPart = parts.get(part) ?? new Map<string, StoredTensor>();
      parts.set(part, tensorsOfPart.set(name, { ...tensor, name }));
    }
  }
  return parts;
}

function ditName(name: string): string {
  return name
    .replace(/^transformer\.layers\./, 'transformer_blocks.')
    .replace(/^transformer\.project_(in|out)\./, 'proj_$1.')
    .replace(/^transformer\./, '')
    .replace('.ff.ff.0.proj.', '.ff.proj_in.')
    .replace('.ff.ff.2.', '.ff.proj_out.');
}

/** Where the blocks of each half begin in its list of layers; the published ones have one. */
const FIRST_BLOCK: Record<string, number> = { encoder: 0, decoder: 3 };
/** Where the projection lies in the list: behind the block and a step without weights, or before it. */
const PROJECTION: Record<string, number> = { encoder: 2, decoder: 1 };

function sameName(name: string): string | null {
  if (name.startsWith('bottleneck.')) {
    return name.replace('scaling_factor', 'scale');
  }
  const [, half, number, rest] = /^(encoder|decoder)\.layers\.(\d+)\.(.+)$/.exec(name) ?? [];
  if (half === undefined) {
    return null;
  }
  const at = Number(number);
  if (at === PROJECTION[half]) {
    return `${half}.proj.${rest}`;
  }
  const own = rest
    .replace('.self_attn.', '.attn.')
    .replace('.pre_norm.', '.norm_attn.')
    .replace('.ff_norm.', '.norm_ff.')
    .replace('.ff.ff.0.proj.', '.ff.proj_in.')
    .replace('.ff.ff.2.', '.ff.proj_out.');
  return `${half}.blocks.${at - FIRST_BLOCK[half]}.${own}`;
}

/** The longest that published ones are told of, in seconds. */
const LONGEST = 384;

/** What diffusers' modules are told, from shapes and from the authors' configuration. */
export function stableAudio3Config(
  part: Exclude<StableAudio3Part, 'text_encoder'>,
  tensors: ReadonlyMap<string, StoredTensor>,
  settings: unknown,
): Record<string, unknown> {
  const shapes = new Shapes(tensors);
  if (part === 'duration_embedder') {
    const [width, waves] = shapes.of('linear.weight');
    const { min_val, max_val } = conditionIn(settings, 'seconds_total');
    return {
      output_dim: width,
      fourier_dim: waves,
      min_val: numberOr(min_val, 0),
      max_val: numberOr(max_val, LONGEST),
    };
  }
  if (part === 'vae') {
    return sameConfig(shapes, settings);
  }
  const [width, waves] = shapes.of('to_timestep_embed.0.weight');
  const block = 'transformer_blocks.0';
  const [head] = shapes.of(`${block}.self_attn.q_norm.gamma`);
  const [memory = 0] = shapes.of('memory_tokens');
  return {
    ...ORDER,
    io_channels: shapes.of('preprocess_conv.weight')[0],
    embed_dim: width,
    depth: shapes.count(/^transformer_blocks\.(\d+)\./),
    num_heads: width / head,
    cond_token_dim: shapes.of('to_cond_embed.0.weight')[1],
    global_cond_dim: shapes.of('to_global_embed.0.weight')[1],
    local_add_cond_dim: shapes.of(`${block}.to_local_embed.0.weight`)[1],
    timestep_features_dim: waves,
    ff_mult: shapes.of(`${block}.ff.proj_in.weight`)[0] / (2 * width),
    num_memory_tokens: memory,
    use_differential_attention: shapes.of(`${block}.self_attn.to_qkv.weight`)[0] === 5 * width,
  };
}

function sameConfig(shapes: Shapes, settings: unknown): Record<string, unknown> {
  const told = objectIn(settings, 'model', 'pretransform', 'config');
  const encoder = objectIn(told, 'encoder', 'config');
  const decoder = objectIn(told, 'decoder', 'config');
  const block = 'encoder.blocks.0.transformers.0';
  const [width] = shapes.of('encoder.proj.weight').slice(1);
  const strides = Array.isArray(encoder.strides) ? (encoder.strides as number[]) : [];
  const hop = numberOr(told.downsampling_ratio, 0);
  return {
    ...ORDER,
    audio_channels: told.io_channels,
    patch_size: hop / strides.reduce((product, stride) => product * stride, 1),
    encoder_channels: encoder.channels,
    encoder_c_mults: encoder.c_mults,
    encoder_strides: strides,
    encoder_transformer_depths: encoder.transformer_depths,
    latent_dim: shapes.of('encoder.proj.weight')[0],
    use_differential_attention: shapes.of(`${block}.attn.to_qkv.weight`)[0] === 5 * width,
    dim_heads: shapes.of(`${block}.attn.q_norm.gamma`)[0],
    ff_mult: shapes.of(`${block}.ff.proj_in.weight`)[0] / (2 * width),
    // Each side is told by itself; they are alike.
    ...(Array.isArray(encoder.sliding_window) && { sliding_window: (encoder.sliding_window as unknown[])[0] }),
    ...(encoder.sinusoidal_blocks !== undefined && { encoder_sinusoidal_blocks: encoder.sinusoidal_blocks }),
    ...(decoder.sinusoidal_blocks !== undefined && { decoder_sinusoidal_blocks: decoder.sinusoidal_blocks }),
    sampling_rate: objectIn(settings).sample_rate,
  };
}
