/**
 * The conditioning of Stable Audio's transformer: the text's hidden states and one token for each of two durations.
 * Reference: diffusers/pipelines/stable_audio/modeling_stable_audio.py
 */
import * as v from 'valibot';
import { parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';

export const className = 'StableAudioProjectionModel';

const whole = v.pipe(v.number(), v.integer(), v.minValue(1));

export const configSchema = v.pipe(
  v.object({ text_encoder_dim: whole, conditioning_dim: whole, min_value: v.number(), max_value: v.number() }),
  v.check(({ min_value, max_value }) => min_value < max_value, 'its min_value is not below its max_value'),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

export const NUMBERS = ['start', 'end'] as const;

/** The tensor with the frequencies of a number. */
export function frequenciesOf(number: (typeof NUMBERS)[number]): string {
  return `${number}_number_conditioner.time_positional_embedding.0.weights`;
}

/** A number of seconds and its sinusoid, sines first: [1, 1 + 2 · frequencies]. */
export function secondsProjection(
  { min_value: least, max_value: greatest }: Config,
  seconds: number,
  frequencies: Float32Array,
): Float32Array<ArrayBuffer> {
  const clamped = Math.min(Math.max(Math.fround(seconds), least), greatest);
  const share = Math.fround((clamped - least) / (greatest - least));
  const turns = frequencies.map((frequency) => Math.fround(Math.fround(share * frequency) * 2) * Math.fround(Math.PI));
  return Float32Array.from([share, ...turns.map(Math.sin), ...turns.map(Math.cos)]);
}

export interface Options extends GraphOptions {
  /** Tokens of the prompt. */
  sequence: number;
  /** Frequencies of each number. */
  frequencies: number;
}

/**
 * Inputs `text` [1, sequence, text_encoder_dim], `mask` [sequence, 1] (0 for padding), `start` and `end` [1, 1 + 2 · frequencies]
 * ({@link secondsProjection}); outputs `text_hidden_states` [sequence, conditioning_dim] and `start_hidden_states`, `end_hidden_states`
 * [1, conditioning_dim]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { text_encoder_dim: read, conditioning_dim: dim } = config;
  const g = new LayerWriter(className, weights, options);
  const states = g.floats('text', [1, options.sequence, read]);
  const text = g.reshape('text/tokens', states, [options.sequence, read]);
  const projected = read === dim ? text : g.linear('text_projection', text, dim);
  g.output('text_hidden_states', g.binary('masked', 'Mul', projected, g.floats('mask', [options.sequence, 1])));
  for (const number of NUMBERS) {
    const waves = g.floats(number, [1, 1 + 2 * options.frequencies]);
    const layer = `${number}_number_conditioner.time_positional_embedding.1`;
    g.output(`${number}_hidden_states`, g.linear(layer, waves, dim));
  }
  return g.graph();
}
