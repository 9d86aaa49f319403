/** Our graphs of the transformers of videos and sounds, with the inputs that are computed beside them; their cases are the reference's. */
import type { Graph, Provider, WeightIndex } from '../src/graphs/graph.ts';
import * as aceStepLayers from '../src/graphs/ace_step_layers.ts';
import * as aceStep from '../src/graphs/ace_step_transformer1d.ts';
import * as ltx from '../src/graphs/ltx_transformer3d.ts';
import * as stableAudio from '../src/graphs/stable_audio_dit.ts';
import * as t5 from '../src/graphs/t5_encoder.ts';
import * as wan from '../src/graphs/wan_transformer3d.ts';
import { hashed } from './hashed_weights.ts';
import type { Input, MadeTensor } from './made_weights.ts';

/** Pixels of a latent of LTX-Video, and its seconds at 25 frames per second. */
const [PIXELS, SECONDS] = [32, Math.fround(8 / 25)];
/** Tokens of LTX-Video's prompt; the others fill it up. */
const WORDS = 12;
const F32 = { dtype: 'f32', batch: 1 } as const;

function rotary({ cos, sin }: { cos: Input['data']; sin: Input['data'] }, half: number) {
  const dims = [cos.length / half, half];
  return { cos: { dims, data: cos }, sin: { dims, data: sin } };
}

/** Of latents whose frames lie below each other in our graphs. */
function extentOf({ dims: [, , frames, height, width] }: Input) {
  return { frames, height, width };
}

const row = (data: Input['data']): Input => ({ dims: [1, data.length], data });

/** The networks' other inputs are the reference's. */
export interface Made {
  graph: Graph;
  more: Record<string, Input>;
}

export interface Case {
  config: unknown;
  /** From 1000, noise, to 0 of videos, from 1 to 0 of sounds. */
  timestep: number;
  /** By the names of our graphs. */
  inputs: Record<string, Input>;
  index: WeightIndex;
  provider: Provider;
  tensors: readonly MadeTensor[];
}

export function wanOf({ config: json, timestep, inputs, index, provider }: Case): Made {
  const config = wan.parseConfig(json);
  const time = wan.timeProjection(config, timestep);
  const extent = extentOf(inputs.sample);
  return {
    graph: wan.build(config, index, { provider, ...F32, ...extent, text: inputs.prompt_embeds.dims[1] }),
    more: { ...rotary(wan.angles(config, extent), config.attention_head_dim / 2), time_proj: row(time) },
  };
}

export function ltxOf({ config: json, timestep, inputs, index, provider }: Case): Made {
  const config = ltx.parseConfig(json);
  const [, text] = inputs.prompt_embeds.dims;
  const extent = extentOf(inputs.sample);
  const seconds = Array.from({ length: extent.frames }, (_, n) => Math.fround(n * SECONDS));
  return {
    graph: ltx.build(config, index, { provider, ...F32, ...extent, text }),
    more: {
      mask: { dims: [1, 1, 1, text], data: t5.paddingMask(text, WORDS) },
      ...rotary(ltx.angles(config, extent, { seconds, pixels: PIXELS }), config.cross_attention_dim / 2),
      time_proj: row(ltx.timeProjection(timestep)),
    },
  };
}

export function stableAudioOf({ config: json, timestep, inputs, index, provider, tensors }: Case): Made {
  const config = stableAudio.parseConfig(json);
  const [text] = inputs.encoder_hidden_states.dims;
  const number = tensors.findIndex(({ name }) => name === stableAudio.FREQUENCIES);
  const { shape, scale, add } = tensors[number];
  const frequencies = hashed(number, shape[0], scale, add ?? 0);
  return {
    graph: stableAudio.build(config, index, { provider, ...F32, height: 1, width: config.sample_size, text }),
    more: {
      ...rotary(stableAudio.angles(config), config.attention_head_dim / 4),
      time_proj: row(stableAudio.timeProjection(timestep, frequencies)),
    },
  };
}

export function aceStepOf({ config: json, timestep, inputs, index, provider }: Case): Made {
  const config = aceStep.parseConfig(json);
  const [text] = inputs.encoder_hidden_states.dims;
  const width = inputs.sample.dims.at(-1) ?? 0;
  const tokens = width / config.patch_size;
  const dims = aceStepLayers.windowDims(tokens, config.sliding_window) ?? [];
  return {
    graph: aceStep.build(config, index, { provider, ...F32, height: 1, width, text }),
    more: {
      ...rotary(aceStepLayers.angles(config, tokens), config.head_dim / 2),
      window: { dims, data: aceStepLayers.windowBias(tokens, config.sliding_window) },
      text_bias: { dims: [1, 1, 1, text], data: aceStepLayers.paddingBias(text, text) },
      time_proj: row(aceStep.timeProjection(timestep)),
    },
  };
}
