/**
 * Transformers of videos and sounds at their published width, one block of each kind with weights of 4 bits that are made while they are read, against torch
 * (`reference/large_media.py`). Whole ones are planned in the tests of their families.
 */
import { expect, test } from 'vitest';
import golden from './goldens/large_media.json';
import { madeInputs, madeWeights, placeOf } from './made_weights.ts';
import { aceStepOf, ltxOf, stableAudioOf, wanOf, type Case, type Made } from './media_transformers.ts';
import { startNodeEngine } from './node_engine.ts';

type Name = keyof typeof golden.blocks;

/** In units of the spread of what is expected. */
const TOLERANCE = 1e-4;

/** Sounds are told a level in place of a timestep. */
const ofSound = (make: (one: Case) => Made) => (one: Case) => make({ ...one, timestep: one.timestep / 1000 });

const FAMILIES: Record<Name, (one: Case) => Made> = {
  'wan21-1.3b': wanOf,
  'wan22-ti2v-5b': wanOf,
  'ltx-2b': ltxOf,
  'stable-audio-open': ofSound(stableAudioOf),
  'ace-step-1.5': ofSound(aceStepOf),
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
