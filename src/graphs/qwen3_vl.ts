/**
 * The language part of Qwen3-VL as a text encoder, which is Qwen3's: of a text without pictures all three axes of its positions are the same.
 * Reference: transformers/models/qwen3_vl/modeling_qwen3_vl.py
 */
import * as v from 'valibot';
import { only, parseNetworkConfig } from './config.ts';
import type { Graph, WeightIndex } from './graph.ts';
import * as qwen3 from './qwen3.ts';
import { rotaryTables, type RotaryTables } from './rotary.ts';

export const className = 'Qwen3VLForConditionalGeneration';

/** Of a text without pictures its sections do not matter. */
const rope = v.optional(v.nullable(v.looseObject({ rope_type: only(['default'], 'default') })));

export const configSchema = v.looseObject({
  text_config: v.optional(v.looseObject({ rope_scaling: rope }), {}),
});

export type Config = qwen3.Config;

/** @throws StudioError `checkpoint_unsupported` */
export function parseConfig(json: unknown): Config {
  const { text_config } = parseNetworkConfig(className, configSchema, json);
  return parseNetworkConfig(className, qwen3.configSchema, { ...text_config, rope_scaling: null });
}

/** Prefix of the language part's tensors. */
const ROOT = 'model.language_model.';

/** The table of embeddings, whose rows are read on the processor. */
export const EMBEDDING_TABLE = `${ROOT}embed_tokens.weight`;

/** For positions 0 to `kept` − 1, and padding, which stood at 1 where FLUX.3 was trained. */
export function angles(
  { head_dim, rope_theta, rope_parameters }: Config,
  sequence: number,
  kept: number,
): RotaryTables {
  return rotaryTables(
    Array.from({ length: sequence }, (_, token) => [token < kept ? token : 1]),
    [head_dim],
    rope_parameters?.rope_theta ?? rope_theta ?? 500_000,
  );
}

/** As {@link qwen3.build}. @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged` */
export function build(config: Config, weights: WeightIndex, options: qwen3.Qwen3Options): Graph {
  return qwen3.build(config, weights, { ...options, root: ROOT });
}
