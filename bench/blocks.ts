/** A transformer in blocks with bound weights: beside the whole graph, beside torch's exports, and at the published width against torch. */
import type { DeviceTensor } from '../src/engine/arithmetic.ts';
import { leastBytes } from '../src/engine/block_placement.ts';
import type { Engine } from '../src/engine/engine.ts';
import type { Network } from '../src/engine/runtime.ts';
import type { Graph } from '../src/graphs/graph.ts';
import golden from '../test/goldens/large_flows.json';
import {
  flux2Transformer,
  madeInputs,
  madeWeights,
  placeOf,
  publishedTransformer,
  type HashedTensor,
  type Input,
  type TransformerName,
} from './transformers.ts';

/** The whole graph with its weights as initializers, or blocks whose weights stay or are streamed. */
export type Way = 'whole' | 'resident' | 'streamed';

export interface BlocksRow {
  /** Until it could be run, its weights on the device. */
  readyMs: number;
  /** The first run, in which the device prepares its programs, and the median of the others; each includes reading the result. */
  firstMs: number;
  ms: number;
  launches: number;
  heapGrowth: number;
  weightBytes: number;
  mostWeightBytes: number;
  /** Of a run: what bringing weights took, and how much of that nothing hid. */
  uploadMs: number;
  waitedMs: number;
  output: number[];
}

export interface PublishedRow {
  /** The greatest difference from torch, in units of the spread. */
  difference: number;
  /** Whether streamed weights give the same bits. */
  isSame: boolean;
  weightBytes: number;
  /** At most at one time while streamed, and what was allowed. */
  streamedBytes: number;
  budget: number;
  kinds: number;
  blocks: number;
  ms: number;
}

/** Layers and width of the klein transformer that is raced. */
const RACED = { double: 4, single: 12, dim: 256, head: 64, text: 256, side: 4, tokens: 16 };

const read = async (engine: Engine, tensor: DeviceTensor) => Array.from(await engine.arithmetic.read(tensor));

function open(engine: Engine, graph: Graph, blobs: Map<string, Blob>, way: Way): Promise<Network> {
  const cut = way === 'whole' ? undefined : graph.blocks?.();
  if (!cut) {
    return engine.createNetwork(graph, blobs);
  }
  const budget = way === 'resident' ? Infinity : leastBytes(cut.blocks.map(({ weightBytes }) => weightBytes));
  return engine.createBlocks(cut, blobs, { budget, onBytes: () => undefined, isCancelled: () => false });
}

function upload(engine: Engine, inputs: Record<string, Input>): Record<string, DeviceTensor> {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, { data, dims }]) => [name, engine.arithmetic.upload(data, dims)]),
  );
}

/** Klein's tensors at the raced width and number of blocks. */
function racedTensors(bits: 4 | 32): HashedTensor[] {
  const { dim, head, text } = RACED;
  const wide = 3072;
  const size = (name: string, side: number) =>
    /norm_(?:added_)?[qk]\./.test(name) ? head : side === 7680 ? text : side % wide === 0 ? (dim * side) / wide : side;
  const copies = (name: string) =>
    name.startsWith('transformer_blocks.0.')
      ? RACED.double
      : name.startsWith('single_transformer_blocks.0.')
        ? RACED.single
        : name.startsWith('single_transformer_blocks.')
          ? 0
          : 1;
  return (golden.blocks['klein-4b'].tensors as HashedTensor[]).flatMap((tensor) => {
    const shape = tensor.shape.map((side) => size(tensor.name, side));
    const gain = Math.sqrt(tensor.shape[tensor.shape.length - 1] / shape[shape.length - 1]);
    const scale = tensor.shape.length > 1 ? Math.fround(tensor.scale * gain) : tensor.scale;
    const { bits: stored, ...plain } = tensor;
    const one = bits === 32 && stored ? { ...plain, scale: Math.fround(scale * 8) } : { ...tensor, scale };
    return Array.from({ length: copies(tensor.name) }, (_, block) => ({
      ...one,
      shape,
      name: tensor.name.replace('transformer_blocks.0.', `transformer_blocks.${block}.`),
    }));
  });
}

/** One way alone in this page. */
export async function raceBlocks(engine: Engine, way: Way, bits: 4 | 32, runs: number): Promise<BlocksRow> {
  const { ledger, arithmetic } = engine;
  const { config, timestep } = golden.blocks['klein-4b'];
  const { dim, head, double, single, text, side, tokens } = RACED;
  const { blobs, index } = madeWeights(racedTensors(bits));
  // What making them takes is no part of it.
  for (const [name, made] of blobs) {
    blobs.set(name, new Blob([await made.slice().arrayBuffer()]));
  }
  const quarter = head / 4;
  const settings = {
    ...config,
    num_layers: double,
    num_single_layers: single,
    num_attention_heads: dim / head,
    attention_head_dim: head,
    joint_attention_dim: text,
    axes_dims_rope: [quarter, quarter, quarter, quarter],
  };
  const given = madeInputs({ sample: [1, config.in_channels, side, side], prompt_embeds: [1, tokens, text] });
  const { graphs, inputs } = flux2Transformer({ config: settings, timestep, inputs: given }, index, engine.provider);
  const feeds = upload(engine, inputs);
  const out = arithmetic.empty(graphs[0].outputs[0].dims);
  const heap = ledger.report().wasmHeapBytes;

  const begun = performance.now();
  const network = await open(engine, graphs[0], blobs, way);
  await arithmetic.settle();
  const readyMs = performance.now() - begun;
  const times: number[] = [];
  let output: number[] = [];
  let before = ledger.report();
  for (let run = 0; run <= runs; run++) {
    before = ledger.report();
    const start = performance.now();
    await engine.run(network, feeds, { out_sample: out });
    output = await read(engine, out);
    times.push(performance.now() - start);
  }
  const after = ledger.report();
  await network.release();
  return {
    readyMs,
    firstMs: times[0],
    ms: times.slice(1).toSorted((a, b) => a - b)[Math.floor(runs / 2)],
    launches: after.launches - before.launches,
    heapGrowth: after.wasmHeapBytes - heap,
    weightBytes: graphs[0].weightBytes,
    mostWeightBytes: after.mostWeightBytes,
    uploadMs: after.uploadMs - before.uploadMs,
    waitedMs: after.waitedMs - before.waitedMs,
    output,
  };
}

/** A transformer of published width with weights of 4 bits, that stay and that are streamed, against torch. */
export async function runPublished(engine: Engine, name: TransformerName): Promise<PublishedRow> {
  const { graphs, inputs, blobs, expected } = publishedTransformer(name, engine.provider);
  const feeds = upload(engine, inputs);
  const results: { output: number[]; most: number; ms: number }[] = [];
  const last = graphs[graphs.length - 1];
  const sizes = last.blocks?.().blocks.map(({ weightBytes }) => weightBytes) ?? [];
  // What is streamed comes first, as the ledger remembers the most that there ever was.
  for (const way of ['streamed', 'resident'] as const) {
    const made: Record<string, DeviceTensor> = {};
    let output: number[] = [];
    const begun = performance.now();
    for (const [k, graph] of graphs.entries()) {
      const network = await open(engine, graph, blobs, way);
      const given = Object.fromEntries(
        graph.inputs.map((port) => [port.name, made[port.name] ?? feeds[port.name] ?? feeds[`${port.name}@${k}`]]),
      );
      const outs = Object.fromEntries(graph.outputs.map((port) => [port.name, engine.arithmetic.empty(port.dims)]));
      await engine.run(network, given, outs);
      Object.assign(made, outs);
      output = await read(engine, Object.values(outs)[0]);
      await network.release();
    }
    results.push({ output, most: engine.ledger.report().mostWeightBytes, ms: performance.now() - begun });
  }
  const [streamed, resident] = results;
  const spread = Math.sqrt(expected.square);
  return {
    difference:
      expected.length === resident.output.length
        ? Math.max(
            ...expected.values.map(
              (value, n) => Math.abs(value - resident.output[placeOf(n, expected.length)]) / spread,
            ),
          )
        : Infinity,
    isSame: streamed.output.every((value, i) => value === resident.output[i]),
    weightBytes: sizes.reduce((sum, size) => sum + size, 0),
    streamedBytes: streamed.most,
    budget: leastBytes(sizes),
    kinds: last.blocks?.().kinds.length ?? 0,
    blocks: sizes.length,
    ms: streamed.ms,
  };
}
