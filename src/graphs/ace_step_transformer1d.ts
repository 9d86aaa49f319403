/**
 * The transformer of ACE-Step 1.5: latents along time, two of them a token, which look at each other, every other layer within a window, and at
 * what words, lyrics and timbre say.
 * Reference: diffusers/models/transformers/ace_step_transformer.py
 */
import * as v from 'valibot';
import {
  attention,
  attentionEntries,
  hasEvenHead,
  sharesHeads,
  UNSHARED,
  ODD_HEAD,
  isSliding,
  paddingInput,
  sightInputs,
  type Sight,
} from './ace_step_layers.ts';
import { count, flag, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import { gated, modulations, oneMore, scaledAndShifted, type Modulation } from './modulation.ts';
import type { Value } from './onnx.ts';
import { timestepWaves } from './rotary.ts';

export const className = 'AceStepTransformer1DModel';

/** Waves of a timestep. */
const WAVES = 256;
/** Timesteps go from 1, noise, to 0; their waves are those of thousandths. */
const SCALE = 1000;

export const configSchema = v.pipe(
  v.object({
    ...attentionEntries,
    num_hidden_layers: count(24),
    in_channels: count(192),
    audio_acoustic_hidden_dim: count(64),
    patch_size: count(2),
    /** Of what it is told, where that is narrower than it. */
    encoder_hidden_size: v.nullish(v.pipe(v.number(), v.integer(), v.minValue(1))),
    is_turbo: flag(false),
    model_version: v.nullish(v.string()),
  }),
  v.check((config) => sharesHeads(config), UNSHARED),
  v.check((config) => hasEvenHead(config), ODD_HEAD),
  v.check(
    ({ in_channels, audio_acoustic_hidden_dim: own }) => in_channels === 3 * own,
    'its in_channels are not three times its audio_acoustic_hidden_dim',
  ),
  v.check(
    ({ layer_types: types, num_hidden_layers: layers }) => !types || types.length === layers,
    'its layer_types are not as many as its num_hidden_layers',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Whether guidance is in its weights already. */
export function isTurbo({ is_turbo, model_version }: Config): boolean {
  return is_turbo || model_version === 'turbo';
}

/** Elements of a token of what it is told. */
export function toldWidth({ encoder_hidden_size: told, hidden_size: own }: Config): number {
  return told ?? own;
}

/** @param timestep from 1, noise, to 0 */
export function timeProjection(timestep: number): Float32Array<ArrayBuffer> {
  return timestepWaves(Math.fround(Math.fround(timestep) * SCALE), WAVES);
}

export interface Options extends GraphOptions {
  /** Tokens of what it is told, padding included. */
  text: number;
}

/**
 * `width` counts latents, a multiple of patch_size. Inputs `sample` [1, audio_acoustic_hidden_dim, 1, width], `context_latents`
 * [1, in_channels − audio_acoustic_hidden_dim, 1, width], `time_proj` [1, 256] ({@link timeProjection}), `encoder_hidden_states`
 * [text, encoder_hidden_size], `text_bias` [1, 1, 1, text] (`paddingBias`), `cos`, `sin` and perhaps `window` of `sightInputs`; output
 * `out_sample` like the sample. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { hidden_size: dim, audio_acoustic_hidden_dim: channels, in_channels, patch_size: patch } = config;
  const { width, text } = options;
  const g = new LayerWriter(className, weights, options);
  const tokens = width / patch;

  const sample = g.floats('sample', [1, channels, 1, width]);
  const context = g.floats('context_latents', [1, in_channels - channels, 1, width]);
  const time = timeEmbedding(g, 'time_embed', g.floats('time_proj', [1, WAVES]), dim);
  // How far the step's end lies before its beginning, for flows of means; it is 0 here, as in the reference's pipeline.
  const still = g.concat('time_proj_r', [g.fill(1, [1, WAVES / 2]), g.fill(0, [1, WAVES / 2])], 1);
  const distance = timeEmbedding(g, 'time_embed_r', still, dim);
  const shifts = g.add('timestep_proj', time.projected, distance.projected);
  const told = g.linear('condition_embedder', g.floats('encoder_hidden_states', [text, toldWidth(config)]), dim);
  const bias = paddingInput(g, 'text_bias', tokens, text);
  const sight = sightInputs(g, '', tokens, config);

  const patches = g.conv('proj_in_conv', g.concat('input', [context, sample], 1), dim, {
    kernel: [1, patch],
    stride: [1, patch],
    padding: 0,
  });
  let hidden = g.tokens('tokens', patches);
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const own = { ...sight, isSliding: isSliding(config.layer_types, layer) };
    hidden = block(g, `layers.${layer}`, hidden, shifts, { at: told, bias }, own, config);
  }
  const [shift, scale] = g.split('shifts', g.weight('scale_shift_table', [1, 2 * dim]), [dim, dim], 1);
  const embedded = g.add('temb', time.embedded, distance.embedded);
  const last = scaledAndShifted(g, 'norm_out', g.rmsNorm('norm_out', hidden, config.rms_norm_eps), {
    shift: g.add('shift', shift, embedded),
    scale: oneMore(g, 'scale', g.add('scale/whole', scale, embedded)),
  });
  const line = g.untokens('line', last, patches);
  g.output('out_sample', g.convTranspose1d('proj_out_conv', line, channels, patch, patch, 0));
  return g.graph();
}

/** AceStepTimestepEmbedding: the embedding [1, dim], and shift, scale and gate of attention and MLP, [1, 6·dim]. */
function timeEmbedding(g: LayerWriter, path: string, waves: Value, dim: number) {
  const first = g.silu(`${path}.act1`, g.linear(`${path}.linear_1`, waves, dim));
  const embedded = g.linear(`${path}.linear_2`, first, dim);
  const projected = g.linear(`${path}.time_proj`, g.silu(`${path}.act2`, embedded), 6 * dim);
  return { embedded, projected };
}

/** AceStepTransformerBlock. */
function block(
  g: LayerWriter,
  path: string,
  x: Value,
  shifts: Value,
  told: { at: Value; bias: Value },
  sight: Sight & { isSliding: boolean },
  config: Config,
): Value {
  const { hidden_size: dim, rms_norm_eps: epsilon } = config;
  const table = g.add(`${path}/shifts`, g.weight(`${path}.scale_shift_table`, [1, 6 * dim]), shifts);
  const [outer, inner] = modulations(g, `${path}/shifts`, table, dim, 2);
  const shifted = (name: string, of: Value, by: Modulation) =>
    scaledAndShifted(g, `${path}.${name}`, g.rmsNorm(`${path}.${name}`, of, epsilon), by);

  const looked = attention(g, `${path}.self_attn`, shifted('self_attn_norm', x, outer), config, sight, false);
  let hidden = gated(g, `${path}.self_attn`, x, looked, outer);
  const asking = g.rmsNorm(`${path}.cross_attn_norm`, hidden, epsilon);
  hidden = attention(g, `${path}.cross_attn`, asking, config, told, hidden);
  const mixed = g.swiGlu(`${path}.mlp`, shifted('mlp_norm', hidden, inner), config.intermediate_size, false);
  return gated(g, `${path}.mlp`, hidden, mixed, inner);
}
