/**
 * Narrow transformers and decoders of sounds and videos: ours beside what `torch.onnx` exports from the same modules, by turns in one page
 * (`reference/export_media.py`).
 */
import type { DeviceTensor } from '../src/engine/arithmetic.ts';
import type { Engine } from '../src/engine/engine.ts';
import type { Network } from '../src/engine/runtime.ts';
import * as ltxVae from '../src/graphs/autoencoder_kl_ltx.ts';
import * as wanVae from '../src/graphs/autoencoder_kl_wan.ts';
import * as oobleck from '../src/graphs/autoencoder_oobleck.ts';
import { SEEN } from '../src/graphs/frame_layers.ts';
import type { Graph, GraphOptions } from '../src/graphs/graph.ts';
import { hashed } from '../test/hashed_weights.ts';
import { madeInputs, madeWeights, placeOf, type Input, type MadeTensor } from '../test/made_weights.ts';
import { aceStepOf, ltxOf, stableAudioOf, wanOf, type Case, type Made } from '../test/media_transformers.ts';
import manifest from './graphs/media.json';

export type MediaName = keyof typeof manifest.networks;
/** Ours with kernels that several frames read bound once, as jobs have them; ours with a copy for each; an export. */
export type MediaGraph = 'ours' | 'own kernels' | 'torchscript' | 'dynamo' | 'opset23';

export interface MediaRow {
  graph: MediaGraph;
  /** In milliseconds, of each run but the first, which makes the device's programs. */
  times: number[];
  createMs: number;
  launches: number;
  boundBytes: number;
  /** Largest difference from torch, in units of the spread. */
  difference: number;
}

/** Networks that run one after another. */
interface Ours {
  graphs: Graph[];
  /** By the names of their inputs. */
  inputs: Record<string, Input>;
  /** What an output is called where it is an input of the next one. */
  renamed: (output: string) => string;
  /** The last one's outputs, in torch's order of elements. */
  result: (outputs: Map<string, Float32Array>) => Float32Array;
}

interface MediaCase extends Omit<Case, 'timestep'> {
  timestep: number | null;
}

const F32 = { dtype: 'f32', batch: 1 } as const;
const product = (dims: readonly number[]) => dims.reduce((all, dim) => all * dim, 1);
const exports = import.meta.glob<string>('./graphs/media/*/*.onnx', { eager: true, query: '?url', import: 'default' });

function only(outputs: Map<string, Float32Array>): Float32Array {
  const [first] = outputs.values();
  return first;
}

/** Frames that follow one another, all of one channel together. */
function byChannel(frames: readonly Float32Array[], channels: number): Float32Array {
  const pixels = frames[0].length / channels;
  const all = new Float32Array(channels * frames.length * pixels);
  frames.forEach((frame, n) => {
    for (let channel = 0; channel < channels; channel++) {
      all.set(frame.subarray(channel * pixels, (channel + 1) * pixels), (channel * frames.length + n) * pixels);
    }
  });
  return all;
}

/** One frame of [1, channels, frames, height, width]. */
function frameOf({ dims: [, channels, frames, height, width], data }: Input, n: number): Input {
  const pixels = height * width;
  const own = new Float32Array(channels * pixels);
  for (let channel = 0; channel < channels; channel++) {
    const at = (channel * frames + n) * pixels;
    own.set(data.subarray(at, at + pixels), channel * pixels);
  }
  return { dims: [1, channels, height, width], data: own };
}

/** The same pixel by pixel, [pixels, channels]. */
function pixelsOf(frames: Input, n: number): Input {
  const { dims, data } = frameOf(frames, n);
  const [, channels, height, width] = dims;
  return { dims: [height * width, channels], data: transposed(data, [channels, height * width]) };
}

const transformer =
  (make: (one: Case) => Made) =>
  (one: MediaCase): Ours => {
    const { graph, more } = make({ ...one, timestep: one.timestep ?? 0 });
    return { graphs: [graph], inputs: { ...one.inputs, ...more }, renamed: (output) => output, result: only };
  };

function oobleckOf({ config, inputs, index, provider }: MediaCase): Ours {
  const { dims } = inputs.latent_sample;
  const options: GraphOptions = { provider, ...F32, height: 1, width: dims[2] };
  const graph = oobleck.buildDecoder(oobleck.parseConfig(config), index, options);
  return { graphs: [graph], inputs, renamed: (output) => output, result: only };
}

/** All of a short video in one piece, stage by stage. */
function ltxVaeOf({ config: json, inputs, index, provider }: MediaCase): Ours {
  const config = ltxVae.parseConfig(json);
  const [, , latents, height, width] = inputs.latent_sample.dims;
  let frames = latents;
  const graphs = ltxVae.decoderStages(config).map(({ scale }, stage) => {
    const options = { provider, ...F32, stage, frames, height: height * scale, width: width * scale };
    const graph = ltxVae.buildDecoder(config, index, { ...options, isFirst: true, isLast: true });
    frames = graph.outputs.length;
    return graph;
  });
  const each = Array.from({ length: latents }, (_, n) => [`frame.${n}`, frameOf(inputs.latent_sample, n)] as const);
  return {
    graphs,
    inputs: Object.fromEntries(each),
    renamed: (output) => output.replace('made.', 'frame.'),
    result: (outputs) => byChannel([...outputs.values()], 3),
  };
}

/** A step behind the first. */
function wanVaeOf({ config: json, inputs, index, provider }: MediaCase): Ours {
  const config = wanVae.parseConfig(json);
  const [, , , height, width] = inputs.latent_sample.dims;
  const graph = wanVae.buildDecoder(config, index, { provider, ...F32, height, width, isFirst: false });
  const layers = [...new Set(graph.inputs.flatMap(({ name }) => SEEN.exec(name)?.[1] ?? []))];
  const frame = provider === 'webgpu' ? pixelsOf : frameOf;
  const seen = layers.flatMap((layer, n) =>
    // The latest is 1.
    [2, 1].map((ago) => [`${layer}/seen.${ago}`, frame(inputs[`seen.${n}`], 2 - ago)] as const),
  );
  return {
    graphs: [graph],
    inputs: { latent_sample: inputs.latent_sample, ...Object.fromEntries(seen) },
    renamed: (output) => output,
    result: (outputs) => {
      const all = outputs.get('sample') ?? new Float32Array();
      const frame = 3 * 64 * height * width;
      return byChannel(
        Array.from({ length: all.length / frame }, (_, n) => all.subarray(n * frame, (n + 1) * frame)),
        3,
      );
    },
  };
}

const NETWORKS: Record<MediaName, (one: MediaCase) => Ours> = {
  ltx: transformer(ltxOf),
  wan: transformer(wanOf),
  'stable-audio': transformer(stableAudioOf),
  'ace-step': transformer(aceStepOf),
  oobleck: oobleckOf,
  'ltx-vae': ltxVaeOf,
  'wan-vae': wanVaeOf,
};

interface Entry {
  config: unknown;
  timestep?: number;
  inputs: Record<string, number[]>;
  output: number[];
  graphs: Partial<Record<MediaGraph, { transposed: string[] }>>;
  tensors: MadeTensor[];
  length: number;
  square: number;
  values: number[];
}

interface Racer {
  run: () => Promise<Float32Array>;
  release: () => Promise<void>;
}

/** Every graph of a network once, and then `runs` times, by turns. */
export async function raceMedia(engine: Engine, name: MediaName, runs: number): Promise<MediaRow[]> {
  const entry = manifest.networks[name] as unknown as Entry;
  const { ledger } = engine;
  const { blobs, index } = madeWeights(entry.tensors);
  const { provider } = engine;
  const inputs = madeInputs(entry.inputs);
  const { config, timestep = null, tensors } = entry;
  const ours = NETWORKS[name]({ config, timestep, inputs, index, provider, tensors });
  const graphs = Object.keys(entry.graphs) as MediaGraph[];
  const isShared = provider === 'webgpu' && ours.graphs.some(({ repeated }) => repeated.size > 0);
  const all: MediaGraph[] = [...graphs, ...(isShared ? ['own kernels' as const] : []), 'ours'];
  const racers: { row: MediaRow; racer: Racer; output: Float32Array }[] = [];
  for (const graph of all) {
    const begun = performance.now();
    const racer =
      graph === 'ours' || graph === 'own kernels'
        ? await openOurs(engine, ours, blobs, graph === 'ours')
        : await openExport(engine, name, graph, entry, inputs);
    const createMs = performance.now() - begun;
    const row = { graph, times: [], createMs, launches: 0, boundBytes: 0, difference: 0 };
    racers.push({ row, racer, output: new Float32Array() });
  }
  for (let run = 0; run <= runs; run++) {
    for (const one of racers) {
      const before = ledger.report();
      const begun = performance.now();
      one.output = await one.racer.run();
      const ms = performance.now() - begun;
      const after = ledger.report();
      if (run > 0) {
        one.row.times.push(ms);
      }
      one.row.launches = after.launches - before.launches;
      one.row.boundBytes = after.boundBytes - before.boundBytes;
    }
  }
  const spread = Math.sqrt(entry.square);
  for (const { row, racer, output } of racers) {
    await racer.release();
    row.difference = Math.max(
      ...entry.values.map((value, n) => Math.abs(value - output[placeOf(n, entry.length)]) / spread),
    );
  }
  return racers.map(({ row }) => row);
}

/** @param isBound whether kernels that several frames read are bound once */
async function openOurs(engine: Engine, ours: Ours, blobs: Map<string, Blob>, isBound: boolean): Promise<Racer> {
  const { arithmetic } = engine;
  const tensors = new Map<string, DeviceTensor>();
  for (const [name, { data, dims }] of Object.entries(ours.inputs)) {
    tensors.set(name, arithmetic.upload(data, dims));
  }
  const stages: { network: Network; given: Record<string, DeviceTensor>; made: Record<string, DeviceTensor> }[] = [];
  for (const graph of ours.graphs) {
    const { repeated } = graph;
    const network =
      isBound && repeated.size > 0 && engine.provider === 'webgpu'
        ? await engine.createBlocks(graph.adjustable(repeated), blobs, {
            budget: Infinity,
            onBytes: () => undefined,
            isCancelled: () => false,
          })
        : await engine.createNetwork(graph, blobs);
    const given = Object.fromEntries(
      graph.inputs.map(({ name, dims }) => {
        const tensor = tensors.get(name);
        if (!tensor || product(tensor.dims) !== product(dims)) {
          throw new Error(`${name} is of another size than what there is.`);
        }
        // Frames that torch has apart lie below each other here.
        return [name, tensor.dims.join() === dims.join() ? tensor : arithmetic.upload(ours.inputs[name].data, dims)];
      }),
    );
    const made = Object.fromEntries(graph.outputs.map(({ name, dims }) => [name, arithmetic.empty(dims)]));
    for (const [name, tensor] of Object.entries(made)) {
      tensors.set(ours.renamed(name), tensor);
    }
    stages.push({ network, given, made });
  }
  const [last] = stages.slice(-1);
  return {
    run: async () => {
      for (const { network, given, made } of stages) {
        await engine.run(network, given, made);
      }
      const outputs = new Map<string, Float32Array>();
      for (const [name, tensor] of Object.entries(last.made).filter(([each]) => !each.includes('/kept.'))) {
        outputs.set(name, await arithmetic.read(tensor));
      }
      return ours.result(outputs);
    },
    release: async () => {
      for (const { network } of stages) {
        await network.release();
      }
    },
  };
}

async function openExport(
  engine: Engine,
  name: MediaName,
  graph: MediaGraph,
  { graphs, tensors, timestep, output: dims }: Entry,
  inputs: Record<string, Input>,
): Promise<Racer> {
  const { arithmetic } = engine;
  const blobs = new Map<string, Blob>();
  tensors.forEach(({ name: tensor, shape, scale, add = 0 }, number) => {
    const values = hashed(number, product(shape), scale, add);
    blobs.set(`made/${tensor}`, new Blob([values]));
    if (graphs[graph]?.transposed.includes(tensor)) {
      blobs.set(`T/${tensor}`, new Blob([transposed(values, shape)]));
    }
  });
  const bytes = new Uint8Array(await (await fetch(exports[`./graphs/media/${name}/${graph}.onnx`])).arrayBuffer());
  const externals = [...blobs.keys()].map((file) => ({ location: file, kind: 'file' as const, file }));
  const network = await engine.createNetwork({ bytes, externals }, blobs);
  const all: Record<string, Input> = {
    ...inputs,
    ...(timestep !== undefined && { timestep: { dims: [1], data: Float32Array.of(timestep) } }),
  };
  const given = Object.fromEntries(
    network.inputs.map(({ name: input }) => [input, arithmetic.upload(all[input].data, all[input].dims)]),
  );
  // What a video's layers have seen comes back renewed.
  const made = Object.fromEntries(
    network.outputs.map(({ name: out, dims: own }, n) => [out, arithmetic.empty(n === 0 ? dims : own.map(Number))]),
  );
  const [first] = Object.keys(made);
  return {
    run: async () => {
      await engine.run(network, given, made);
      return arithmetic.read(made[first]);
    },
    release: () => network.release(),
  };
}

function transposed(values: Float32Array, [rows, columns]: readonly number[]): Float32Array<ArrayBuffer> {
  const turned = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      turned[c * rows + r] = values[r * columns + c];
    }
  }
  return turned;
}
