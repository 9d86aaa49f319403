/** 3×3 convolutions on the processor beside the runtime's own: widths that four does not divide, several pictures, with and without bias. */
import { join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { expect, test } from 'vitest';
import type { RunnableGraph } from '../src/engine/runtime.ts';
import type { Graph } from '../src/graphs/graph.ts';
import { LayerWriter } from '../src/graphs/layers.ts';
import { shortConv } from '../src/graphs/short_convolution.ts';
import { openModel } from '../src/models/family.ts';
import { filesOf, folderContents } from './checkpoint_folder.ts';
import { hashed } from './hashed_weights.ts';
import { startNodeEngine } from './node_engine.ts';

const FOLDER = join(import.meta.dirname, 'checkpoints', 'tiny-turbo');
const NONE = { get: () => undefined, names: () => [] };

test.each([
  { batch: 1, channels: 32, out: 32, height: 8, width: 12, bias: true },
  { batch: 2, channels: 33, out: 40, height: 7, width: 9, bias: true },
  { batch: 3, channels: 32, out: 34, height: 1, width: 1, bias: false },
  { batch: 1, channels: 64, out: 32, height: 5, width: 6, bias: false },
  // In bands of one row, and of three where seven rows are one more than two of them.
  { batch: 1, channels: 32, out: 32, height: 3, width: 8, bias: true, bandBytes: 1 },
  { batch: 2, channels: 33, out: 40, height: 7, width: 9, bias: true, bandBytes: 3 * 4 * 6 * 2 * 73 * 3 },
])('$batch of $channels to $out channels, $height × $width, bias $bias, bands of $bandBytes bytes', async (shape) => {
  const { batch, channels, out, height, width, bias, bandBytes } = shape;
  const g = new LayerWriter('test', NONE, { provider: 'wasm', dtype: 'f32', batch, height, width });
  const x = g.input('x', 'float32', [batch, channels, height, width]);
  const weight = g.input('weight', 'float32', [out, channels, 3, 3]);
  const added = bias ? g.input('bias', 'float32', [out]) : null;
  const given = [x, weight, ...(added ? [added] : [])];
  const attributes = { kernel_shape: [3, 3], strides: [1, 1], pads: [1, 1, 1, 1] };
  const dims = [batch, out, height, width];
  g.output('plain', g.node('whole', 'Conv', given, dims, { attributes }));
  g.output('short', shortConv(g, 'short_conv', x, out, weight, added, bandBytes));

  const { bytes, externals, inputs } = g.graph();
  const externalData = externals.map((one) => {
    expect(one).toMatchObject({ kind: 'fill', value: 0 });
    return { path: one.location, data: new Uint8Array('length' in one ? one.length : 0) };
  });
  const session = await InferenceSession.create(bytes, { externalData, logSeverityLevel: 3 });
  const feeds = inputs.map(
    (input, n) =>
      [
        input.name,
        new Tensor(
          'float32',
          hashed(
            n,
            input.dims.reduce((a, b) => a * b),
            1,
            0,
          ),
          input.dims,
        ),
      ] as const,
  );
  const results = await session.run(Object.fromEntries(feeds));
  await session.release();
  const [plain, short] = [results['plain'], results['short']].map(({ data }) => data as Float32Array);
  expect(results['short'].dims).toEqual(dims);
  const largest = plain.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const difference = plain.reduce((most, value, at) => Math.max(most, Math.abs(value - short[at])), 0);
  expect(largest).toBeGreaterThan(1);
  expect(difference / largest).toBeLessThan(2e-5);
});

test('what the session will hold is told, and where memory is short the weights stay as they are', async () => {
  const { engine } = startNodeEngine();
  const graphs: Graph[] = [];
  const createNetwork = engine.createNetwork.bind(engine);
  engine.createNetwork = (graph: RunnableGraph, blobs) => {
    graphs.push(graph as Graph);
    return createNetwork(graph, blobs);
  };
  const model = await openModel(filesOf('tiny-turbo', folderContents(FOLDER)), engine);
  const request = { operation: 'image_generation', width: 64, height: 64, batch_size: 1, steps: 1, guidance_scale: 1 };
  const held = async () => {
    graphs.length = 0;
    await model.prepare(request, new AbortController().signal, false);
    return graphs.map(({ heldBytes, weightBytes }) => heldBytes / weightBytes);
  };
  const quick = await held();
  expect(Math.max(...quick)).toBeGreaterThan(1.2);
  model.usePlainConvolutions?.(true);
  const plain = await held();
  // Whichever network has such convolutions is made anew; folded upsampling stays.
  expect(plain.length).toBeGreaterThan(1);
  expect(Math.max(...plain)).toBeLessThan(1.2);
  // Back again to what is quicker.
  model.usePlainConvolutions?.(false);
  expect(Math.max(...(await held()))).toBe(Math.max(...quick));
  await model.release();
});
