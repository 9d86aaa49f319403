/**
 * Layers of the published checkpoints on the processor, at full width and for pictures of 512 to 1024 pixels, against torch. ONNX Runtime's
 * own attention kernel fails on wasm for most of them. `DARKROOM_LAYERS=all` also runs those that take minutes.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as ort from 'onnxruntime-web';
import { describe, expect, test } from 'vitest';
import { pictureAttention, transformer2d } from '../src/graphs/attention.ts';
import type { Graph, StoredTensor } from '../src/graphs/graph.ts';
import { LayerWriter } from '../src/graphs/layers.ts';
import { resnetBlock } from '../src/graphs/resnet.ts';
import { openModel } from '../src/models/family.ts';
import { filesOf, folderContents } from './checkpoint_folder.ts';
import { paint } from './golden_pictures.ts';
import { hashed } from './hashed_weights.ts';
import { startNodeEngine } from './node_engine.ts';
import { readExternal } from './onnx_node.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

interface Layer {
  name: string;
  kind: 'transformer' | 'middle' | 'resnet';
  options: { channels: number; heads?: number; text?: number; out?: number };
  tensors: { name: string; shape: number[]; scale: number; add: number }[];
  cases: { pixels: number; side: number; mean: number; square: number; values: number[] }[];
}

const { layers } = JSON.parse(readFileSync(new URL('./goldens/published_layers.json', import.meta.url), 'utf8')) as {
  layers: Layer[];
};

/** Tensor numbers of input and text, and their scale: `about` in the golden file. */
const [INPUT, TEXT, SCALE] = [1000, 1001, 1.75];
const GROUPS = 32;
const TOKENS = 77;
/** The layers that always run: about two seconds on one core. */
const QUICK_FLOPS = 4.5e10;
/** Relative to the largest value, as everywhere. */
const TOLERANCE = 1e-4;
/** Maximum memory of a layer in bytes: the wasm heap is 4 GiB and also holds all other weights. */
const MOST_BYTES = 1.5 * 2 ** 30;

const size = (dims: readonly number[]) => dims.reduce((product, dim) => product * dim, 1);

function build({ kind, options, tensors }: Layer, side: number): { graph: Graph; blobs: Map<string, Blob> } {
  const stored = new Map<string, StoredTensor>();
  const parts: Float32Array<ArrayBuffer>[] = [];
  let offset = 0;
  for (const [number, { name, shape, scale, add }] of tensors.entries()) {
    const values = hashed(number, size(shape), scale, add);
    const path = `layer.${name}`;
    stored.set(path, { name: path, dtype: 'F32', shape, file: 'weights', offset, length: values.byteLength });
    parts.push(values);
    offset += values.byteLength;
  }
  const weights = { get: (name: string) => stored.get(name), names: () => stored.keys() };
  const g = new LayerWriter(kind, weights, { provider: 'wasm', dtype: 'f32', batch: 1, height: side, width: side });
  const { channels, heads = 1, text = 0, out = channels } = options;
  const x = g.input('x', 'float32', [1, channels, side, side]);
  const epsilon = 1e-6;
  if (kind === 'transformer') {
    const states = g.input('text', 'float32', [TOKENS, text]);
    const more = { layers: 1, heads, groups: GROUPS, onlyCross: false, upcast: false };
    g.output('y', transformer2d(g, 'layer', x, { ...more, text: { sequence: TOKENS, states } }));
  } else if (kind === 'middle') {
    g.output('y', pictureAttention(g, 'layer', x, GROUPS, epsilon));
  } else {
    g.output('y', resnetBlock(g, 'layer', x, { out, groups: GROUPS, epsilon }));
  }
  return { graph: g.graph(), blobs: new Map([['weights', new Blob(parts)]]) };
}

function loadWasm(): void {
  const wasm = new URL('../node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm', import.meta.url);
  ort.env.wasm.wasmBinary = new Uint8Array(readFileSync(wasm)).buffer;
  ort.env.wasm.numThreads = 1;
}

async function compute({ graph, blobs }: ReturnType<typeof build>): Promise<Float32Array> {
  loadWasm();
  const externalData = await Promise.all(
    graph.externals.map(async (external) => ({
      path: external.location,
      data: await readExternal(external, blobs),
    })),
  );
  const session = await ort.InferenceSession.create(graph.bytes, { externalData, logSeverityLevel: 3 });
  const feeds = graph.inputs.map(({ name, dims }) => {
    const data = hashed(name === 'x' ? INPUT : TEXT, size(dims), SCALE, 0);
    return [name, new ort.Tensor('float32', data, dims)] as const;
  });
  const { y } = await session.run(Object.fromEntries(feeds));
  const values = y.data as Float32Array;
  await session.release();
  return values;
}

interface Samples {
  mean: number;
  square: number;
  values: number[];
}

/** Largest difference of `values` from torch's samples, relative to the largest sample. */
function differenceFrom(golden: Samples, values: ArrayLike<number>): number {
  const scale = Math.max(...golden.values.map(Math.abs));
  return golden.values.reduce((most, expected, n) => {
    const found = values[(n * 2654435761 + 12345) % values.length];
    return Math.max(most, Math.abs(found - expected) / scale);
  }, 0);
}

const cases = layers.flatMap((layer) => layer.cases.map((golden) => ({ layer, golden })));
const chosen = cases
  .map(({ layer, golden }) => ({ layer, golden, built: () => build(layer, golden.side) }))
  .filter(({ built }) => process.env.DARKROOM_LAYERS === 'all' || built().graph.flops <= QUICK_FLOPS);

describe('on the processor, as torch', () => {
  test.each(chosen.map((each) => [each.layer.name, each.golden.pixels, each] as const))(
    '%s, at %i pixels',
    { timeout: 1_200_000 },
    async (name, pixels, { golden, built }) => {
      const network = built();
      const values = await compute(network);
      const [mean, square] = values.reduce(
        ([sum, squares], value) => [sum + value / values.length, squares + value ** 2 / values.length],
        [0, 0],
      );
      const worst = differenceFrom(golden, values);
      const { flops, activationBytes } = network.graph;
      console.log(
        `${name} at ${pixels}: ${(flops / 1e9).toFixed(0)} GFLOP, holds ${Math.ceil(activationBytes / 2 ** 20)} MiB, differs by ${worst.toExponential(1)}`,
      );
      expect(worst).toBeLessThan(TOLERANCE);
      expect(Math.abs(mean - golden.mean)).toBeLessThan(TOLERANCE * Math.sqrt(golden.square));
      expect(Math.abs(square / golden.square - 1)).toBeLessThan(TOLERANCE);
      expect(activationBytes).toBeLessThan(MOST_BYTES);
    },
  );

  test('every layer is among those that run each time, or costs more than the quick ones', () => {
    expect(new Set(cases.map(({ layer }) => layer.name)).size).toBe(layers.length);
    expect(chosen.length).toBeGreaterThanOrEqual(8);
  });
});

test(
  "a whole picture of SD-Turbo's shape, 512×512 pixels, on the runtime of browsers",
  { timeout: 1_200_000 },
  async () => {
    const { parameters, latents, pixels } = JSON.parse(
      readFileSync(new URL('./goldens/narrow_turbo.json', import.meta.url), 'utf8'),
    ) as { parameters: Record<string, unknown>; latents: Samples; pixels: Samples };
    const contents = weightlessContents('narrow-sd-turbo');
    for (const [path, bytes] of folderContents(join(import.meta.dirname, 'checkpoints', 'tiny-turbo'))) {
      if (/^(text_encoder|tokenizer)/.test(path)) {
        contents.set(path, bytes);
      }
    }
    loadWasm();
    const model = await openModel(filesOf('narrow-sd-turbo', contents), startNodeEngine(ort).engine);
    const operation = { operation: 'image_generation', config: 'stable_diffusion', parameters };
    const made = await paint(model, operation, '');
    await model.release();
    expect(made.latents.dims).toEqual([1, 4, 64, 64]);
    expect(differenceFrom(latents, made.latents.data as Float32Array)).toBeLessThan(TOLERANCE);
    const [{ width, height, data }] = made.images;
    expect([width, height]).toEqual([512, 512]);
    // Colours of 255, as everywhere to within two.
    expect(
      255 *
        differenceFrom(
          pixels,
          data.filter((_, i) => i % 4 !== 3),
        ),
    ).toBeLessThanOrEqual(2);
  },
);
