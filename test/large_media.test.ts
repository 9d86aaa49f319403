/**
 * Transformers of videos at their published width, one block of each with weights of 4 bits that are made while they are read, against torch
 * (`reference/large_media.py`). Whole ones are planned in `videos.test.ts` and `ltx_videos.test.ts`.
 */
import { expect, test } from 'vitest';
import type { Graph, Provider, WeightIndex } from '../src/graphs/graph.ts';
import * as ltx from '../src/graphs/ltx_transformer3d.ts';
import * as t5 from '../src/graphs/t5_encoder.ts';
import * as wan from '../src/graphs/wan_transformer3d.ts';
import golden from './goldens/large_media.json';
import { madeInputs, madeWeights, placeOf, type Input } from './made_weights.ts';
import { startNodeEngine } from './node_engine.ts';

type Name = keyof typeof golden.blocks;

/** Frames, rows and columns of the latents, which lie below each other. */
const SIZE = { frames: 2, height: 4, width: 4 };
/** Pixels of a latent of LTX-Video, and its seconds at 25 frames per second. */
const [PIXELS, SECONDS] = [32, Math.fround(8 / 25)];
/** Tokens of LTX-Video's prompt; the others fill it up. */
const WORDS = 12;
/** In units of the spread of what is expected. */
const TOLERANCE = 1e-4;

function options(provider: Provider, text: number) {
  return { provider, dtype: 'f32', batch: 1, ...SIZE, text } as const;
}

function rotary({ cos, sin }: { cos: Input['data']; sin: Input['data'] }, half: number) {
  const dims = [cos.length / half, half];
  return { cos: { dims, data: cos }, sin: { dims, data: sin } };
}

interface Made {
  graph: Graph;
  more: Record<string, Input>;
}

function wanOf(json: unknown, index: WeightIndex, provider: Provider, text: number, timestep: number): Made {
  const config = wan.parseConfig(json);
  const time = wan.timeProjection(config, timestep);
  return {
    graph: wan.build(config, index, options(provider, text)),
    more: {
      ...rotary(wan.angles(config, SIZE), config.attention_head_dim / 2),
      time_proj: { dims: [1, time.length], data: time },
    },
  };
}

function ltxOf(json: unknown, index: WeightIndex, provider: Provider, text: number, timestep: number): Made {
  const config = ltx.parseConfig(json);
  const time = ltx.timeProjection(timestep);
  const seconds = Array.from({ length: SIZE.frames }, (_, n) => Math.fround(n * SECONDS));
  return {
    graph: ltx.build(config, index, options(provider, text)),
    more: {
      mask: { dims: [1, 1, 1, text], data: t5.paddingMask(text, WORDS) },
      ...rotary(ltx.angles(config, SIZE, { seconds, pixels: PIXELS }), config.cross_attention_dim / 2),
      time_proj: { dims: [1, time.length], data: time },
    },
  };
}

const FAMILIES: Record<Name, typeof wanOf> = { 'wan21-1.3b': wanOf, 'wan22-ti2v-5b': wanOf, 'ltx-2b': ltxOf };

test.each(Object.keys(FAMILIES) as Name[])('a block of %s in 4 bits gives what torch gives', async (name) => {
  const { config, timestep, inputs, tensors, length, square, values } = golden.blocks[name];
  const { engine } = startNodeEngine();
  const { arithmetic } = engine;
  const { blobs, index } = madeWeights(tensors);
  const [, tokens] = inputs.prompt_embeds;
  const { graph, more } = FAMILIES[name](config, index, engine.provider, tokens, timestep);
  const network = await engine.createNetwork(graph, blobs, () => undefined);
  const { sample, ...others } = madeInputs(inputs);
  const [, channels] = sample.dims;
  const dims = [1, channels, SIZE.frames * SIZE.height, SIZE.width];
  const given = Object.entries({ ...others, ...more, sample: { dims, data: sample.data } });
  const feeds = Object.fromEntries(given.map(([each, { data, dims: own }]) => [each, arithmetic.upload(data, own)]));
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
