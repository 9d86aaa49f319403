/** A transformer in blocks with bound weights: beside the whole graph, beside torch's exports, and at the published width against torch. */
import type { DeviceTensor } from '../src/engine/arithmetic.ts';
import { leastBytes } from '../src/engine/block_placement.ts';
import type { Engine } from '../src/engine/engine.ts';
import type { Network } from '../src/engine/runtime.ts';
import type { Graph } from '../src/graphs/graph.ts';
import golden from '../test/goldens/large_flows.json';
import { madeInputs, madeWeights, placeOf, type Input, type MadeTensor } from '../test/made_weights.ts';
import { flux2Transformer, publishedTransformer, type TransformerName } from './transformers.ts';

/** The whole graph with its weights as initializers, or blocks whose weights stay or are streamed. */
export type Way = 'whole' | 'resident' | 'streamed';

const WAYS: readonly Way[] = ['whole', 'resident', 'streamed'];

export interface BlocksRow {
  /** Until it could be run, its weights on the device: the median and the least. */
  ready: { ms: number; least: number };
  /** Of a run, reading the result included. */
  run: { ms: number; least: number };
  /** Of one run: what the device was told, and buffers that were made for it, that to read the result included. */
  launches: number;
  submits: number;
  passes: number;
  clears: number;
  buffers: number;
  /** Until the run's commands were all given to the device: what of it passes here. The median. */
  toldMs: number;
  heapGrowth: number;
  /** Of all counted runs: what bringing weights took, and how much of that the device had nothing else to do. */
  uploadMs: number;
  waitedMs: number;
  output: number[];
}

export interface BlocksRace {
  rows: Record<Way, BlocksRow>;
  weightBytes: number;
  blocks: number;
  kinds: number;
  /** Of the quickest of each, which other work on the machine distorts least. */
  readyRatio: number;
  runRatio: number;
  /** The median of the ratios of runs that followed one another. */
  pairRatio: number;
  streamedRatio: number;
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
const RACED = { double: 2, single: 8, dim: 256, head: 64, text: 256, side: 4, tokens: 16 };

/** How often each is made ready. */
const OPENINGS = 5;

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

const read = async (engine: Engine, tensor: DeviceTensor) => Array.from(await engine.arithmetic.read(tensor));

export function openNetwork(engine: Engine, graph: Graph, blobs: Map<string, Blob>, way: Way): Promise<Network> {
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
function racedTensors(bits: 4 | 32): MadeTensor[] {
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
  return (golden.blocks['klein-4b'].tensors as MadeTensor[]).flatMap((tensor) => {
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

/** Klein's blocks at a width that a software adapter can run: the whole graph, weights that stay and weights that are streamed, by turns. */
export async function raceBlocks(engine: Engine, bits: 4 | 32, runs: number): Promise<BlocksRace> {
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
  const [graph] = graphs;
  const feeds = upload(engine, inputs);
  const out = arithmetic.empty(graph.outputs[0].dims);
  const rows = {} as Record<Way, BlocksRow>;
  const times = { ready: {} as Record<Way, number[]>, run: {} as Record<Way, number[]> };
  const told = {} as Record<Way, number[]>;
  const open = new Map<Way, Network>();
  for (const way of WAYS) {
    const none = { ms: 0, least: 0 };
    const counts = { launches: 0, submits: 0, passes: 0, clears: 0, buffers: 0, heapGrowth: 0 };
    rows[way] = { ready: none, run: none, ...counts, toldMs: 0, uploadMs: 0, waitedMs: 0, output: [] };
    told[way] = [];
    times.ready[way] = [];
    times.run[way] = [];
  }

  for (let opening = 0; opening < OPENINGS; opening++) {
    for (const way of WAYS) {
      await open.get(way)?.release();
      const heap = ledger.report().wasmHeapBytes;
      const begun = performance.now();
      open.set(way, await openNetwork(engine, graph, blobs, way));
      await arithmetic.settle();
      times.ready[way].push(performance.now() - begun);
      rows[way].heapGrowth += ledger.report().wasmHeapBytes - heap;
    }
  }
  for (let run = 0; run <= runs; run++) {
    for (const [way, network] of open) {
      const before = ledger.report();
      const begun = performance.now();
      await engine.run(network, feeds, { out_sample: out });
      const toldMs = performance.now() - begun;
      rows[way].output = await read(engine, out);
      const after = ledger.report();
      rows[way].launches = after.launches - before.launches;
      rows[way].submits = after.submits - before.submits;
      rows[way].passes = after.passes - before.passes;
      rows[way].clears = after.clears - before.clears;
      rows[way].buffers = after.createdBuffers - before.createdBuffers;
      // The first run makes the device's programs, which all ways share.
      if (run > 0) {
        times.run[way].push(performance.now() - begun);
        told[way].push(toldMs);
        rows[way].uploadMs += after.uploadMs - before.uploadMs;
        rows[way].waitedMs += after.waitedMs - before.waitedMs;
      }
    }
  }
  for (const [way, network] of open) {
    rows[way].ready = { ms: median(times.ready[way]), least: Math.min(...times.ready[way]) };
    rows[way].toldMs = median(told[way]);
    rows[way].run = { ms: median(times.run[way]), least: Math.min(...times.run[way]) };
    await network.release();
  }
  const least = (of: Record<Way, number[]>, way: Way, other: Way) => Math.min(...of[way]) / Math.min(...of[other]);
  return {
    rows,
    weightBytes: graph.weightBytes,
    blocks: graph.blocks?.().blocks.length ?? 0,
    kinds: graph.blocks?.().kinds.length ?? 0,
    readyRatio: least(times.ready, 'whole', 'resident'),
    runRatio: least(times.run, 'resident', 'whole'),
    pairRatio: median(times.run.resident.map((ms, run) => ms / times.run.whole[run])),
    streamedRatio: least(times.run, 'streamed', 'resident'),
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
      const network = await openNetwork(engine, graph, blobs, way);
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
