/**
 * Transformers of videos and sounds at their published width, one block of each kind with weights of 4 bits that are made while they are read, against torch
 * (`reference/large_media.py`). Whole ones are planned in the tests of their families.
 */
import { expect, test } from 'vitest';
import type { Graph, Provider, WeightIndex } from '../src/graphs/graph.ts';
import * as aceStepLayers from '../src/graphs/ace_step_layers.ts';
import * as aceStep from '../src/graphs/ace_step_transformer1d.ts';
import * as ltx from '../src/graphs/ltx_transformer3d.ts';
import * as stableAudio from '../src/graphs/stable_audio_dit.ts';
import * as t5 from '../src/graphs/t5_encoder.ts';
import * as wan from '../src/graphs/wan_transformer3d.ts';
import golden from './goldens/large_media.json';
import { hashed } from './hashed_weights.ts';
import { madeInputs, madeWeights, placeOf, type Input, type MadeTensor } from './made_weights.ts';
import { startNodeEngine } from './node_engine.ts';

type Name = keyof typeof golden.blocks;

/** Frames, rows and columns of the latents, which lie below each other. */
const SIZE = { frames: 2, height: 4, width: 4 };
/** Pixels of a latent of LTX-Video, and its seconds at 25 frames per second. */
const [PIXELS, SECONDS] = [32, Math.fround(8 / 25)];
/** Tokens of LTX-Video's prompt; the others fill it up. */
const WORDS = 12;
/** Sounds are told a level in place of a timestep. */
const TRAINED = 1000;
const F32 = { dtype: 'f32', batch: 1 } as const;
/** In units of the spread of what is expected. */
const TOLERANCE = 1e-4;

function rotary({ cos, sin }: { cos: Input['data']; sin: Input['data'] }, half: number) {
  const dims = [cos.length / half, half];
  return { cos: { dims, data: cos }, sin: { dims, data: sin } };
}

const row = (data: Input['data']): Input => ({ dims: [1, data.length], data });

/** The networks' other inputs are the reference's. */
interface Made {
  graph: Graph;
  more: Record<string, Input>;
}

interface Case {
  config: unknown;
  timestep: number;
  /** By the names of our graphs. */
  inputs: Record<string, Input>;
  index: WeightIndex;
  provider: Provider;
  tensors: readonly MadeTensor[];
}

function wanOf({ config: json, timestep, inputs, index, provider }: Case): Made {
  const config = wan.parseConfig(json);
  const time = wan.timeProjection(config, timestep);
  return {
    graph: wan.build(config, index, { provider, ...F32, ...SIZE, text: inputs.prompt_embeds.dims[1] }),
    more: { ...rotary(wan.angles(config, SIZE), config.attention_head_dim / 2), time_proj: row(time) },
  };
}

function ltxOf({ config: json, timestep, inputs, index, provider }: Case): Made {
  const config = ltx.parseConfig(json);
  const [, text] = inputs.prompt_embeds.dims;
  const seconds = Array.from({ length: SIZE.frames }, (_, n) => Math.fround(n * SECONDS));
  return {
    graph: ltx.build(config, index, { provider, ...F32, ...SIZE, text }),
    more: {
      mask: { dims: [1, 1, 1, text], data: t5.paddingMask(text, WORDS) },
      ...rotary(ltx.angles(config, SIZE, { seconds, pixels: PIXELS }), config.cross_attention_dim / 2),
      time_proj: row(ltx.timeProjection(timestep)),
    },
  };
}

function stableAudioOf({ config: json, timestep, inputs, index, provider, tensors }: Case): Made {
  const config = stableAudio.parseConfig(json);
  const [text] = inputs.encoder_hidden_states.dims;
  const number = tensors.findIndex(({ name }) => name === stableAudio.FREQUENCIES);
  const { shape, scale, add } = tensors[number];
  const frequencies = hashed(number, shape[0], scale, add ?? 0);
  return {
    graph: stableAudio.build(config, index, { provider, ...F32, height: 1, width: config.sample_size, text }),
    more: {
      ...rotary(stableAudio.angles(config), config.attention_head_dim / 4),
      time_proj: row(stableAudio.timeProjection(timestep / TRAINED, frequencies)),
    },
  };
}

function aceStepOf({ config: json, timestep, inputs, index, provider }: Case): Made {
  const config = aceStep.parseConfig(json);
  const [text] = inputs.encoder_hidden_states.dims;
  const width = inputs.sample.dims.at(-1) ?? 0;
  const tokens = width / config.patch_size;
  const dims = aceStepLayers.windowDims(tokens, config.sliding_window) ?? expect.fail('The window holds all.');
  return {
    graph: aceStep.build(config, index, { provider, ...F32, height: 1, width, text }),
    more: {
      ...rotary(aceStepLayers.angles(config, tokens), config.head_dim / 2),
      window: { dims, data: aceStepLayers.windowBias(tokens, config.sliding_window) },
      text_bias: { dims: [1, 1, 1, text], data: aceStepLayers.paddingBias(text, text) },
      time_proj: row(aceStep.timeProjection(timestep / TRAINED)),
    },
  };
}

const FAMILIES: Record<Name, (one: Case) => Made> = {
  'wan21-1.3b': wanOf,
  'wan22-ti2v-5b': wanOf,
  'ltx-2b': ltxOf,
  'stable-audio-open': stableAudioOf,
  'ace-step-1.5': aceStepOf,
};

test.each(Object.keys(FAMILIES) as Name[])('a block of %s in 4 bits gives what torch gives', async (name) => {
  const { config, timestep, inputs: shapes, tensors, length, square, values } = golden.blocks[name];
  const { engine } = startNodeEngine();
  const { arithmetic, provider } = engine;
  const { blobs, index } = madeWeights(tensors);
  const inputs = madeInputs(shapes);
  const { graph, more } = FAMILIES[name]({ config, timestep, inputs, index, provider, tensors });
  const network = await engine.createNetwork(graph, blobs, () => undefined);
  // Frames lie below each other, and a sound is one pixel high.
  const feeds = Object.fromEntries(
    graph.inputs.map((port) => [port.name, arithmetic.upload((more[port.name] ?? inputs[port.name]).data, port.dims)]),
  );
  const [{ dims }] = graph.outputs;
  const out_sample = arithmetic.empty(dims);
  await engine.run(network, feeds, { out_sample });
  const output = await arithmetic.read(out_sample);
  await network.release();

  expect(output).toHaveLength(length);
  const spread = Math.sqrt(square);
  const differences = values.map((value, n) => Math.abs(value - output[placeOf(n, length)]) / spread);
  const quantised = tensors.filter((tensor) => 'bits' in tensor && tensor.bits === 4).length;
  console.log(`${name}: ${quantised} matrices of 4 bits, ${Math.max(...differences).toExponential(1)} from torch`);
  expect(quantised).toBeGreaterThan(8);
  expect(Math.max(...differences)).toBeLessThanOrEqual(TOLERANCE);
});
