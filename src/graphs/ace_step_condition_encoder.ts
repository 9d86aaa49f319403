/**
 * What ACE-Step's transformer is told: the words, the lyrics, and the timbre of a sound, each by a network of its own, so that other words do not
 * reload what reads the lyrics.
 * Reference: diffusers/pipelines/ace_step/modeling_ace_step.py
 */
import * as v from 'valibot';
import {
  attentionEntries,
  encoderLayers,
  hasEvenHead,
  sharesHeads,
  UNSHARED,
  ODD_HEAD,
  paddingInput,
  sightInputs,
} from './ace_step_layers.ts';
import { count, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';

export const className = 'AceStepConditionEncoder';

/** Latents of silence, [1, length, channels] or [1, channels, length], and what stands for words that guidance leads away from; none is a layer. */
export const SILENCE = 'silence_latent';
export const SILENCE_BY_CHANNEL = 'silence_latent_by_channel';
export const NOTHING = 'null_condition_emb';

export const configSchema = v.pipe(
  v.object({
    ...attentionEntries,
    text_hidden_dim: count(1024),
    timbre_hidden_dim: count(64),
    num_lyric_encoder_hidden_layers: count(8),
    num_timbre_encoder_hidden_layers: count(4),
  }),
  v.check((config) => sharesHeads(config), UNSHARED),
  v.check((config) => hasEvenHead(config), ODD_HEAD),
  v.check(
    ({ layer_types: types, num_lyric_encoder_hidden_layers: layers }) => !types || types.length === layers,
    'its layer_types are not as many as its num_lyric_encoder_hidden_layers',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

export interface Options extends GraphOptions {
  /** Tokens, padding included, or latents of the timbre. */
  sequence: number;
}

/**
 * Input `text` [sequence, text_hidden_dim]; output `hidden_states` [sequence, hidden_size]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildText(config: Config, weights: WeightIndex, options: Options): Graph {
  const g = new LayerWriter(`${className} text`, weights, options);
  const text = g.floats('text', [options.sequence, config.text_hidden_dim]);
  g.output('hidden_states', g.linear('text_projector', text, config.hidden_size, { bias: false }));
  return g.graph();
}

/**
 * Inputs `lyrics` [sequence, text_hidden_dim], `bias` [1, 1, 1, sequence] (`paddingBias`), `cos`, `sin` and perhaps `window` of `sightInputs`;
 * output `hidden_states` [sequence, hidden_size]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildLyrics(config: Config, weights: WeightIndex, options: Options): Graph {
  const { sequence } = options;
  const g = new LayerWriter(`${className} lyrics`, weights, options);
  const lyrics = g.floats('lyrics', [sequence, config.text_hidden_dim]);
  const bias = paddingInput(g, 'bias', sequence, sequence);
  const sight = { ...sightInputs(g, '', sequence, config), bias };
  const layers = { count: config.num_lyric_encoder_hidden_layers, types: config.layer_types };
  const embedded = g.linear('lyric_encoder.embed_tokens', lyrics, config.hidden_size);
  g.output(
    'hidden_states',
    encoderLayers(g, 'lyric_encoder.', embedded, config, layers, () => sight),
  );
  return g.graph();
}

/**
 * Inputs `timbre` [sequence, timbre_hidden_dim], latents along time, `cos`, `sin` and perhaps `window` of `sightInputs`; output `hidden_states`
 * [1, hidden_size]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildTimbre(config: Config, weights: WeightIndex, options: Options): Graph {
  const { sequence } = options;
  const g = new LayerWriter(`${className} timbre`, weights, options);
  const latents = g.floats('timbre', [sequence, config.timbre_hidden_dim]);
  const sight = sightInputs(g, '', sequence, config);
  const layers = { count: config.num_timbre_encoder_hidden_layers, types: null };
  const embedded = g.linear('timbre_encoder.embed_tokens', latents, config.hidden_size);
  const all = encoderLayers(g, 'timbre_encoder.', embedded, config, layers, () => sight);
  g.output('hidden_states', g.firstOf('hidden_states/first', all, 1));
  return g.graph();
}
