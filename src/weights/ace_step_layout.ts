/**
 * ACE-Step 1.5 as its authors publish it: one file of weights, and one configuration, for what are four modules in diffusers.
 * Reference: diffusers/scripts/convert_ace_step_to_diffusers.py
 */

export type AceStepPart = 'transformer' | 'condition_encoder' | 'audio_tokenizer' | 'audio_token_detokenizer';

/** Of the one configuration. */
export const ACE_STEP_CLASS = 'AceStepConditionGenerationModel';

const PREFIXES: Record<string, AceStepPart> = {
  decoder: 'transformer',
  encoder: 'condition_encoder',
  tokenizer: 'audio_tokenizer',
  detokenizer: 'audio_token_detokenizer',
};

const LAYERS: Record<string, string> = {
  q_proj: 'to_q',
  k_proj: 'to_k',
  v_proj: 'to_v',
  o_proj: 'to_out.0',
  q_norm: 'norm_q',
  k_norm: 'norm_k',
};

/** @returns where the tensor is in diffusers' modules; null for one that they do not have */
export function aceStepName(name: string): { part: AceStepPart; name: string } | null {
  if (name === 'null_condition_emb') {
    return { part: 'condition_encoder', name };
  }
  const [, prefix, rest] = /^(\w+)\.(.+)$/.exec(name) ?? [];
  const part = PREFIXES[prefix];
  if (part === undefined) {
    return null;
  }
  const own = rest.replace(/\.([qkvo]_(?:proj|norm))(?=\.)/, (_, layer: string) => `.${LAYERS[layer]}`);
  return { part, name: part === 'transformer' ? own.replace(/^(proj_in|proj_out)\.1\./, '$1_conv.') : own };
}

type Values = Readonly<Record<string, unknown>>;

/** What diffusers' modules are told: their own part of the one configuration. */
export function aceStepConfig(part: AceStepPart, told: Values): Values {
  const shared = ['head_dim', 'rope_theta', 'attention_bias', 'rms_norm_eps', 'sliding_window'];
  const sizes = ['hidden_size', 'intermediate_size', 'num_attention_heads', 'num_key_value_heads'];
  const ofEncoder = Object.fromEntries(sizes.map((key) => [key, told[`encoder_${key}`] ?? told[key]]));
  const poolers = (told.num_attention_pooler_hidden_layers as number | undefined) ?? 2;
  const ofCodes = {
    ...pick(told, [...shared, 'audio_acoustic_hidden_dim', 'pool_window_size']),
    ...ofEncoder,
    num_attention_pooler_hidden_layers: poolers,
    layer_types: Array.isArray(told.layer_types) ? told.layer_types.slice(0, poolers) : null,
  };
  switch (part) {
    case 'transformer':
      return {
        ...pick(told, [...shared, ...sizes, 'num_hidden_layers', 'in_channels', 'audio_acoustic_hidden_dim']),
        ...pick(told, ['patch_size', 'layer_types', 'is_turbo', 'model_version']),
        encoder_hidden_size: ofEncoder.hidden_size,
      };
    case 'condition_encoder':
      return {
        ...pick(told, [...shared, 'text_hidden_dim', 'timbre_hidden_dim']),
        ...pick(told, ['num_lyric_encoder_hidden_layers', 'num_timbre_encoder_hidden_layers']),
        ...ofEncoder,
      };
    case 'audio_tokenizer':
      return {
        ...ofCodes,
        fsq_dim: told.fsq_dim ?? ofEncoder.hidden_size,
        ...pick(told, ['fsq_input_levels', 'fsq_input_num_quantizers']),
      };
    case 'audio_token_detokenizer':
      return ofCodes;
  }
}

function pick(values: Values, keys: readonly string[]): Values {
  return Object.fromEntries(keys.flatMap((key) => (key in values ? [[key, values[key]]] : [])));
}
