/**
 * Stable Audio Open as its authors publish it: one file of weights for what are three modules in diffusers, and one configuration.
 * Reference: diffusers/scripts/convert_stable_audio.py
 */
import type { StoredTensor } from '../graphs/graph.ts';
import { each, Shapes } from './inferred_configs.ts';
import { together, type LayerPart } from './layer_parts.ts';
import { conditionIn, numberOr, objectIn } from './stable_audio_settings.ts';
import { rowsOf } from './tensor_rows.ts';

export type StableAudioPart = 'transformer' | 'projection_model' | 'vae';

const CONDITIONER = 'conditioner.conditioners.';
const TRANSFORMER = 'model.model.';
const VAE = 'pretransform.model.';

/** Tensors of its transformer and its autoencoder, and of the first of two numbers that it is told, which other versions are not. */
export const STABLE_AUDIO_PARTS = [
  `${TRANSFORMER}transformer.layers.0.self_attn.to_qkv.weight`,
  `${VAE}decoder.layers.0.weight_v`,
  `${CONDITIONER}seconds_start.embedder.embedding.1.weight`,
];

/** What all published ones have, in its authors' words; their own code keeps it apart from the weights. */
const PUBLISHED = { rate: 44_100, samples: 2_097_152, head: 64, greatest: 512, tokens: 128 };

/** What the authors' configuration tells, or what the published checkpoint's does. */
export interface StableAudioTold {
  rate: number;
  /** Samples that the transformer makes. */
  samples: number;
  /** Elements of a head. */
  head: number;
  /** Range of the seconds that it is told. */
  least: number;
  greatest: number;
  /** That T5 reads. */
  tokens: number;
}

/** @param config the authors' `model_config.json`; null where there is none */
export function stableAudioTold(config: unknown): StableAudioTold {
  const { embed_dim: width, num_heads: heads } = objectIn(config, 'model', 'diffusion', 'config');
  const seconds = conditionIn(config, 'seconds_start');
  const { sample_rate: rate, sample_size: samples } = objectIn(config);
  return {
    rate: numberOr(rate, PUBLISHED.rate),
    samples: numberOr(samples, PUBLISHED.samples),
    head: typeof width === 'number' && typeof heads === 'number' ? width / heads : PUBLISHED.head,
    least: numberOr(seconds.min_val, 0),
    greatest: numberOr(seconds.max_val, PUBLISHED.greatest),
    tokens: numberOr(conditionIn(config, 'prompt').max_length, PUBLISHED.tokens),
  };
}

/** Sorts a file's tensors by diffusers' modules, under the names that they have there. */
export function stableAudioTensors(
  tensors: readonly StoredTensor[],
): ReadonlyMap<StableAudioPart, Map<string, StoredTensor>> {
  const blocks = new Shapes(new Map(tensors.map((tensor) => [tensor.name, tensor]))).count(
    /^pretransform\.model\.decoder\.layers\.(\d+)\.layers\./,
  );
  const parts = new Map<StableAudioPart, Map<string, StoredTensor>>(
    (['transformer', 'projection_model', 'vae'] as const).map((part) => [part, new Map()]),
  );
  for (const tensor of tensors) {
    const [start = ''] = [TRANSFORMER, VAE, CONDITIONER].filter((prefix) => tensor.name.startsWith(prefix));
    const rest = tensor.name.slice(start.length);
    if (start === TRANSFORMER) {
      for (const own of transformerTensors(tensor, rest)) {
        parts.get('transformer')?.set(own.name, own);
      }
    } else if (start === VAE) {
      const name = oobleckName(rest, blocks);
      if (name !== null) {
        parts.get('vae')?.set(name, { ...tensor, name });
      }
    } else if (start === CONDITIONER) {
      const name = rest
        .replace(/^seconds_start\./, 'start_number_conditioner.')
        .replace(/^seconds_total\./, 'end_number_conditioner.')
        .replace('embedder.embedding', 'time_positional_embedding');
      parts.get('projection_model')?.set(name, { ...tensor, name });
    }
  }
  return parts;
}

/** Layers outside of the blocks. */
const LAYERS: Record<string, string> = {
  'transformer.project_in': 'proj_in',
  'transformer.project_out': 'proj_out',
  'to_timestep_embed.0': 'timestep_proj.0',
  'to_timestep_embed.2': 'timestep_proj.2',
  'to_global_embed.0': 'global_proj.0',
  'to_global_embed.2': 'global_proj.2',
  'to_cond_embed.0': 'cross_attention_proj.0',
  'to_cond_embed.2': 'cross_attention_proj.2',
  preprocess_conv: 'preprocess_conv',
  postprocess_conv: 'postprocess_conv',
};

const BLOCK: Record<string, LayerPart[]> = {
  pre_norm: [{ path: 'norm1' }],
  'self_attn.to_qkv': together('attn1', false),
  'self_attn.to_out': [{ path: 'attn1.to_out.0' }],
  cross_attend_norm: [{ path: 'norm2' }],
  'cross_attn.to_q': [{ path: 'attn2.to_q' }],
  'cross_attn.to_kv': ['k', 'v'].map((part, i) => ({ path: `attn2.to_${part}`, rows: { from: i, to: i + 1, of: 2 } })),
  'cross_attn.to_out': [{ path: 'attn2.to_out.0' }],
  ff_norm: [{ path: 'norm3' }],
  'ff.ff.0.proj': [{ path: 'ff.net.0.proj' }],
  'ff.ff.2': [{ path: 'ff.net.2' }],
};

/** Of norms. */
const ENDS: Record<string, string> = { gamma: 'weight', beta: 'bias' };

function transformerTensors(tensor: StoredTensor, rest: string): StoredTensor[] {
  if (rest === 'timestep_features.weight') {
    return [{ ...tensor, name: 'time_proj.weight', shape: tensor.shape.slice(0, 1) }];
  }
  const [, path, end] = /^(.+)\.(\w+)$/.exec(rest) ?? [];
  const [, block, layer] = /^transformer\.layers\.(\d+)\.(.+)$/.exec(path) ?? [];
  const prefix = block === undefined ? '' : `transformer_blocks.${block}.`;
  const parts = block === undefined ? (LAYERS[path] ? [{ path: LAYERS[path] }] : []) : (BLOCK[layer] ?? []);
  return parts.map(({ path: own, rows }) => {
    const name = `${prefix}${own}.${ENDS[end] ?? end}`;
    return rows ? rowsOf(tensor, rows, name) : { ...tensor, name };
  });
}

const UNIT = ['snake1', 'conv1', 'snake2', 'conv2'];
const UNITS = ['res_unit1', 'res_unit2', 'res_unit3'];
const INNER: Record<string, string[]> = {
  encoder: [...UNITS, 'snake1', 'conv1'],
  decoder: ['snake1', 'conv_t1', ...UNITS],
};

/**
 * The name in diffusers of a tensor of Oobleck, whose layers are one list in each half: a convolution, the blocks, an activation, a convolution.
 * @param blocks in each half
 * @returns null for what is no layer of it
 */
function oobleckName(name: string, blocks: number): string | null {
  const [, half, number, rest] = /^(encoder|decoder)\.layers\.(\d+)\.(.+)$/.exec(name) ?? [];
  if (half === undefined) {
    return null;
  }
  const at = Number(number) - 1;
  if (at < 0) {
    return `${half}.conv1.${rest}`;
  }
  if (at >= blocks) {
    return `${half}.${at === blocks ? 'snake1' : 'conv2'}.${rest}`;
  }
  const [, inner, end] = /^layers\.(\d+)\.(.+)$/.exec(rest) ?? [];
  const [, unit, last] = /^layers\.(\d+)\.(.+)$/.exec(end) ?? [];
  const own = unit === undefined ? end : `${UNIT[Number(unit)]}.${last}`;
  return `${half}.block.${at}.${INNER[half][Number(inner)]}.${own}`;
}

/** What diffusers' modules are told, as far as shapes and the authors' configuration tell it. */
export function stableAudioConfig(
  part: StableAudioPart,
  parts: ReadonlyMap<StableAudioPart, ReadonlyMap<string, StoredTensor>>,
  told: StableAudioTold,
): Record<string, unknown> {
  const of = (one: StableAudioPart) => new Shapes(parts.get(one) ?? new Map());
  const shapes = of(part);
  const vae = oobleckConfig(of('vae'), told.rate);
  if (part === 'vae') {
    return vae;
  }
  if (part === 'projection_model') {
    const [width] = shapes.of('start_number_conditioner.time_positional_embedding.1.weight');
    return { text_encoder_dim: width, conditioning_dim: width, min_value: told.least, max_value: told.greatest };
  }
  const [width, channels] = shapes.of('proj_in.weight');
  const [cross] = shapes.of('transformer_blocks.0.attn2.to_k.weight');
  const [, read] = shapes.of('cross_attention_proj.0.weight');
  return {
    sample_size: told.samples / vae.downsampling_ratios.reduce((product, ratio) => product * ratio, 1),
    in_channels: channels,
    out_channels: channels,
    num_layers: shapes.count(/^transformer_blocks\.(\d+)\./),
    attention_head_dim: told.head,
    num_attention_heads: width / told.head,
    num_key_value_attention_heads: cross / told.head,
    cross_attention_dim: cross,
    cross_attention_input_dim: read,
    time_proj_dim: 2 * shapes.of('time_proj.weight')[0],
    global_states_input_dim: shapes.of('global_proj.0.weight')[1],
  };
}

function oobleckConfig(shapes: Shapes, rate: number) {
  const blocks = shapes.count(/^decoder\.block\.(\d+)\./);
  const [hidden, channels] = shapes.of('encoder.conv1.weight_v');
  const [top, latents] = shapes.of('decoder.conv1.weight_v');
  const multiples = each(blocks, (n) => shapes.of(`encoder.block.${n}.conv1.weight_v`)[0] / hidden);
  return {
    encoder_hidden_size: hidden,
    // A convolution that shortens reads twice as many samples as it steps over.
    downsampling_ratios: each(blocks, (n) => shapes.of(`encoder.block.${n}.conv1.weight_v`)[2] / 2),
    channel_multiples: multiples,
    decoder_channels: top / (multiples.at(-1) ?? 1),
    decoder_input_channels: latents,
    audio_channels: channels,
    sampling_rate: rate,
  };
}
