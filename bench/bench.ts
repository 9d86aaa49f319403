/**
 * Side by side in one page: our graphs against torch's exports, and the loop that stays on the device against the same
 * network driven with CPU tensors. Every time includes reading the result back; the first run of each is not counted.
 */
import type { DeviceTensor } from '../src/engine/arithmetic.ts';
import { Engine } from '../src/engine/engine.ts';
import { NetworkShelf } from '../src/engine/network_shelf.ts';
import type { Network, RunnableGraph } from '../src/engine/runtime.ts';
import type { Provider } from '../src/graphs/graph.ts';
import { parseSchedulerConfig } from '../src/schedulers/config.ts';
import { applyStep } from '../src/samplers/apply.ts';
import { planSampling } from '../src/schedulers/plan.ts';
import { samplers } from '../src/samplers/registry.ts';
import { schedulers } from '../src/schedulers/registry.ts';
import { schedules } from '../src/schedules/registry.ts';
import { defaultFiles, recordingsFiles } from '../src/storage/private_files.ts';
import { readLora, withLora } from '../src/weights/lora.ts';
import { databaseIsSafe, filesAreSafe } from '../src/storage/torn_log.ts';
import {
  differenceFrom,
  exportedGraph,
  exportedInputs,
  expectedOutputs,
  makeInputs,
  makeLora,
  makeWeights,
  ourGraphs,
  type Exporter,
  type NetworkName,
} from './networks.ts';
import { writeSong } from './song.ts';
import { openNetwork, raceBlocks, runPublished } from './blocks.ts';
import type { TransformerName } from './transformers.ts';
import { raceMedia, type MediaName } from './media.ts';
import { writeVideo } from './video.ts';
import { holdWhole } from './whole.ts';
import { mediaCases, mediaFiles, type WholeMediaName } from './whole_media.ts';
import { pictureCase, pictureFiles, pictureNames, type WholePictureName } from './whole_pictures.ts';

/** Ours as one graph with its weights in it, or in blocks with bound weights; or an export. */
export type Which = 'ours' | 'blocks' | Exporter;

export interface Row {
  graph: Which;
  /** Median of all runs but the first, in milliseconds, and each of them. */
  ms: number;
  times: number[];
  createMs: number;
  launches: number;
  boundBytes: number;
  /** Largest difference from torch, relative to its largest value. */
  difference: number;
  /** Of what ours computes once per picture before it. */
  launchesBefore: number;
}

export interface LoopRow {
  deviceMs: number;
  cpuMs: number;
  difference: number;
}

export interface LoraRow {
  loras: number;
  /** That each of them changes. */
  layers: number;
  /** Loading without any, with all, and changing the strength of one of them. */
  plainMs: number;
  withMs: number;
  changedMs: number;
  /** The same two while the kernels of the products do nothing. */
  withIdleMs: number;
  changedIdleMs: number;
  /** What the change wrote to buffers of ours; 0 where the session was made anew. */
  writtenBytes: number;
  writtenTensors: number;
}

export interface MemoryRow {
  weightBytes: number;
  wasmHeapGrowth: number;
  jsPeakBytes: number | null;
}

let engine: Promise<Engine> | undefined;

function start(backend: Provider): Promise<Engine> {
  // On one thread: the runtime would begin others from this page's own script, which wants a document.
  engine ??= Engine.start({ backend, precision: 'f32', countLaunches: true, threads: '1' });
  return engine;
}

/** One graph alone in this page; each gets a fresh page, so that none slows the next. */
async function measure(backend: Provider, name: NetworkName, which: Which, runs: number): Promise<Row> {
  return (await race(backend, name, [which], runs))[0];
}

/** Some graphs of a network by turns, so that whatever else the machine does meets all of them. */
async function race(backend: Provider, name: NetworkName, graphs: readonly Which[], runs: number): Promise<Row[]> {
  const { arithmetic, ledger } = await start(backend);
  const made = makeWeights(name);
  const feeds: Record<string, DeviceTensor> = Object.fromEntries(
    Object.entries(makeInputs(name)).map(([input, { data, dims }]) => [input, arithmetic.upload(data, dims)]),
  );
  const expected = await expectedOutputs(name);
  const outputs = Object.fromEntries(expected.map((output) => [output.name, arithmetic.empty(output.dims)]));
  const racers: (Racer & { row: Row; times: number[] })[] = [];
  for (const graph of graphs) {
    const racer = await racerOf(backend, name, graph, made, feeds);
    const { createMs, launchesBefore } = racer;
    const row = { graph, times: [], createMs, launchesBefore, launches: 0, boundBytes: 0, difference: 0, ms: 0 };
    racers.push({ ...racer, row, times: [] });
  }
  for (let run = 0; run <= runs; run++) {
    for (const racer of racers) {
      const before = ledger.report();
      const begun = performance.now();
      await racer.network.run(ortTensors(pick({ ...feeds, ...racer.context }, racer.names)), ortTensors(outputs));
      const computed: Float32Array[] = [];
      for (const { name: output } of expected) {
        computed.push(await arithmetic.read(outputs[output]));
      }
      racer.times.push(performance.now() - begun);
      const after = ledger.report();
      racer.row.difference = Math.max(...expected.map((output, k) => differenceFrom(output, computed[k])));
      racer.row.launches = after.launches - before.launches;
      racer.row.boundBytes = after.boundBytes - before.boundBytes;
    }
  }
  for (const { network, row, times } of racers) {
    await network.release();
    row.times = times.slice(1);
    row.ms = median(row.times);
  }
  return racers.map(({ row }) => row);
}

interface Racer {
  network: Network;
  /** Of its inputs. */
  names: string[];
  /** What another graph computes of the inputs once. */
  context: Record<string, DeviceTensor>;
  launchesBefore: number;
  createMs: number;
}

async function racerOf(
  backend: Provider,
  name: NetworkName,
  which: Which,
  { blobs, index }: ReturnType<typeof makeWeights>,
  feeds: Record<string, DeviceTensor>,
): Promise<Racer> {
  const engine = await start(backend);
  const { runtime, arithmetic, device, ledger } = engine;
  const create = (graph: RunnableGraph) => runtime.createNetwork(graph, blobs, { name: backend, device });
  const context: Record<string, DeviceTensor> = {};
  const started = performance.now();
  let network: Network;
  let names: string[];
  let launchesBefore = 0;
  if (which === 'ours' || which === 'blocks') {
    const { graph, before } = ourGraphs(name, index, backend);
    for (const one of before) {
      const made = Object.fromEntries(one.outputs.map((port) => [port.name, arithmetic.empty(port.dims)]));
      const first = await create(one);
      const given = one.inputs.map((port) => port.name);
      const { launches } = ledger.report();
      await first.run(ortTensors(pick(feeds, given)), ortTensors(made));
      launchesBefore += ledger.report().launches - launches;
      await first.release();
      Object.assign(context, made);
    }
    network = which === 'ours' ? await create(graph) : await openNetwork(engine, graph, blobs, 'resident');
    names = graph.inputs.map((port) => port.name);
  } else {
    network = await create(await exportedGraph(name, which));
    names = exportedInputs(name);
  }
  return { network, names, context, launchesBefore, createMs: performance.now() - started };
}

/** `steps` guided Euler steps with our UNet graph: everything on the device, or every tensor through the CPU at every step. */
async function loop(backend: Provider, steps: number): Promise<LoopRow> {
  const { runtime, arithmetic, device } = await start(backend);
  const { ort } = runtime;
  const { blobs, index } = makeWeights('unet');
  const inputs = makeInputs('unet');
  const {
    graph,
    before: [before],
  } = ourGraphs('unet', index, backend);
  const provider = { name: backend, device };
  const context: Record<string, DeviceTensor> = Object.fromEntries(
    before.outputs.map((port) => [port.name, arithmetic.empty(port.dims)]),
  );
  const states = inputs.encoder_hidden_states;
  const first = await runtime.createNetwork(before, blobs, provider);
  await first.run(
    ortTensors({ encoder_hidden_states: arithmetic.upload(states.data, states.dims) }),
    ortTensors(context),
  );
  await first.release();
  const network = await runtime.createNetwork(graph, blobs, provider);
  const config = parseSchedulerConfig(
    JSON.stringify({
      _class_name: 'EulerDiscreteScheduler',
      beta_start: 0.00085,
      beta_end: 0.012,
      beta_schedule: 'scaled_linear',
    }),
  );
  const plan = planSampling({ config, steps }, { samplers, schedules, schedulers });
  const [, channels, height, width] = inputs.sample.dims;
  const count = channels * height * width;
  const noise = inputs.sample.data.slice(0, count);
  const guidance = 3;
  const time = arithmetic.upload(inputs.time_proj.data, inputs.time_proj.dims);

  const onDevice = async () => {
    const x = arithmetic.upload(noise, [1, channels, height, width]);
    const state = {
      x,
      input: arithmetic.empty(inputs.sample.dims),
      copies: 2,
      denoised: arithmetic.empty([count]),
      history: null,
      historyLength: 0,
      historyHead: 0,
      blend: null,
    };
    const out = arithmetic.empty(inputs.sample.dims);
    arithmetic.combine(state.input, plan.steps[0].inputScale, x, 0, null, 2);
    for (const [i, step] of plan.steps.entries()) {
      await network.run(
        ortTensors({ sample: state.input, time_proj: time, ...context }),
        ortTensors({ out_sample: out }),
      );
      arithmetic.step({
        step,
        state,
        uncond: out,
        cond: out,
        condOffset: count,
        guidance,
        noise: null,
        nextInputScale: plan.steps[i + 1]?.inputScale ?? 1,
        blend: null,
      });
    }
    const result = await arithmetic.read(x);
    [x, state.input, state.denoised, out].forEach((tensor) => tensor.dispose());
    return result;
  };

  const throughCpu = async () => {
    const x = noise.slice();
    const carried = new Map<string, Float32Array<ArrayBuffer>>();
    for (const [name, tensor] of Object.entries(context)) {
      carried.set(name, await arithmetic.read(tensor));
    }
    for (const step of plan.steps) {
      const sample = new Float32Array(2 * count);
      x.forEach((value, i) => {
        sample[i] = sample[count + i] = value * step.inputScale;
      });
      const feeds: Record<string, InstanceType<typeof ort.Tensor>> = {
        sample: new ort.Tensor('float32', sample, inputs.sample.dims),
        time_proj: new ort.Tensor('float32', inputs.time_proj.data, inputs.time_proj.dims),
      };
      for (const [name, data] of carried) {
        feeds[name] = new ort.Tensor('float32', data, [...context[name].dims]);
      }
      const out = arithmetic.empty(inputs.sample.dims);
      await network.run(feeds, ortTensors({ out_sample: out }));
      const model = await arithmetic.read(out);
      out.dispose();
      applyStep(step, { x, cond: model.subarray(count), uncond: model.subarray(0, count), guidance, history: [] });
    }
    return x;
  };

  const deviceTimes: number[] = [];
  const cpuTimes: number[] = [];
  let difference = 0;
  for (let round = 0; round < 4; round++) {
    const begun = performance.now();
    const a = await onDevice();
    const between = performance.now();
    const b = await throughCpu();
    deviceTimes.push(between - begun);
    cpuTimes.push(performance.now() - between);
    difference = worst(a, b);
  }
  return { deviceMs: median(deviceTimes.slice(1)), cpuMs: median(cpuTimes.slice(1)), difference };
}

/** LoRAs of an attention layer's rank; each changes all matrices of the UNet's transformers. */
const [LORAS, RANK] = [5, 16];

/** Loads our UNet without and with LoRAs, and changes the strength of one of them; medians of `runs`, of fresh pages' first ones too. */
async function loras(backend: Provider, runs: number): Promise<LoraRow> {
  const engine = await start(backend);
  const { blobs, index } = makeWeights('unet');
  const layers = await Promise.all(
    Array.from({ length: LORAS }, async (_, k) => {
      const [file, blob] = [`lora ${k}`, makeLora(index, RANK, k)];
      blobs.set(file, blob);
      return (await readLora(blob, file, { unet: index })).unet;
    }),
  );
  const blob = (path: string) => Promise.resolve(blobs.get(path) ?? new Blob([]));
  const shelf = new NetworkShelf(engine, { blob }, new Set(['unet']));
  const load = async (strengths: readonly number[]) => {
    const weights = strengths.reduce((one, strength, k) => withLora(one, layers[k], strength), index);
    const [begun, { bytes, tensors }] = [performance.now(), engine.ledger.uploads];
    await shelf.get('unet', {}, () => ourGraphs('unet', weights, backend).graph);
    await engine.arithmetic.settle();
    const { uploads } = engine.ledger;
    return { ms: performance.now() - begun, bytes: uploads.bytes - bytes, tensors: uploads.tensors - tensors };
  };
  const all = Array<number>(LORAS).fill(0.7);
  const rows = { plain: [] as number[], with: [] as number[], changed: [] as number[] };
  const idle = { with: [] as number[], changed: [] as number[] };
  let written = { bytes: 0, tensors: 0 };
  const both = async ({ with: loading, changed }: typeof idle) => {
    await shelf.clear();
    loading.push((await load(all)).ms);
    await shelf.renew('unet');
    const change = await load([0.4, ...all.slice(1)]);
    changed.push(change.ms);
    written = change;
  };
  for (let run = 0; run < runs; run++) {
    await shelf.clear();
    rows.plain.push((await load([])).ms);
    await both(rows);
    await withoutProducts(() => both(idle));
  }
  await shelf.clear();
  return {
    loras: LORAS,
    layers: layers[0].size,
    plainMs: median(rows.plain),
    withMs: median(rows.with),
    changedMs: median(rows.changed),
    withIdleMs: median(idle.with),
    changedIdleMs: median(idle.changed),
    writtenBytes: written.bytes,
    writtenTensors: written.tensors,
  };
}

/** While kernels of LoRAs' products do nothing: a software adapter computes them on the processor, where they take most of the time. */
async function withoutProducts(work: () => Promise<void>): Promise<void> {
  const pass = GPUComputePassEncoder.prototype;
  // eslint-disable-next-line @typescript-eslint/unbound-method -- they are called with the pass that they are asked of
  const before = { setPipeline: pass.setPipeline, dispatchWorkgroups: pass.dispatchWorkgroups };
  const idle = new WeakSet<GPUComputePassEncoder>();
  pass.setPipeline = function (pipeline) {
    if (pipeline.label.startsWith('add_product')) {
      idle.add(this);
    }
    before.setPipeline.call(this, pipeline);
  };
  pass.dispatchWorkgroups = function (...counts) {
    if (!idle.has(this)) {
      before.dispatchWorkgroups.apply(this, counts);
    }
  };
  try {
    await work();
  } finally {
    Object.assign(pass, before);
  }
}

/** Loads our UNet and samples memory use along the way. */
async function memory(backend: Provider): Promise<MemoryRow> {
  const { runtime, ledger, device } = await start(backend);
  const { blobs, index } = makeWeights('unet');
  const { graph } = ourGraphs('unet', index, backend);
  const before = ledger.report().wasmHeapBytes;
  let peak: number | null = null;
  const sample = () => {
    const used = (performance as { memory?: { usedJSHeapSize: number } }).memory?.usedJSHeapSize;
    peak = used === undefined ? peak : Math.max(peak ?? 0, used);
  };
  const sampling = setInterval(sample, 5);
  const network = await runtime.createNetwork(graph, blobs, { name: backend, device });
  clearInterval(sampling);
  sample();
  const wasmHeapGrowth = ledger.report().wasmHeapBytes - before;
  await network.release();
  return {
    weightBytes: [...index.names()].reduce((sum, name) => sum + (index.get(name)?.length ?? 0), 0),
    wasmHeapGrowth,
    jsPeakBytes: peak,
  };
}

function pick<T>(record: Record<string, T>, names: string[]): Record<string, T> {
  return Object.fromEntries(names.map((name) => [name, record[name]]));
}

function ortTensors(tensors: Record<string, DeviceTensor>): Record<string, DeviceTensor['ort']> {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.ort]));
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

function worst(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
}

/** Milliseconds until storing is safe, in the first page of an origin: in IndexedDB, and in both file systems at once. */
async function storing(): Promise<{ databaseMs: number; filesMs: number }> {
  const [files, recordings] = await Promise.all([defaultFiles(), recordingsFiles()]);
  const began = performance.now();
  await databaseIsSafe();
  const between = performance.now();
  await Promise.all([filesAreSafe('default', files), recordings && filesAreSafe('recordings', recordings)]);
  return { databaseMs: between - began, filesMs: performance.now() - between };
}

const isPicture = (name: string): name is WholePictureName => pictureNames.some((one) => one === name);

const bench = {
  device: async (backend: Provider) => (await start(backend)).report,
  measure,
  race,
  loop,
  loras,
  memory,
  storing,
  song: async (backend: Provider, frames: number, isGuided: boolean) =>
    writeSong(await start(backend), frames, isGuided),
  writeVideo,
  raceBlocks: async (bits: 4 | 32, runs: number) => raceBlocks(await start('webgpu'), bits, runs),
  runPublished: async (name: TransformerName) => runPublished(await start('webgpu'), name),
  raceMedia: async (backend: Provider, name: MediaName, runs: number) => raceMedia(await start(backend), name, runs),
  holdWhole: async (name: WholeMediaName | WholePictureName) => {
    const engine = await start('webgpu');
    return isPicture(name)
      ? holdWhole(engine, pictureFiles(name), pictureCase(name))
      : holdWhole(engine, await mediaFiles(name), mediaCases[name]);
  },
};
export type Bench = typeof bench;
Object.assign(globalThis, { bench });
