/**
 * The engine: one GPU device (or the CPU), one ONNX Runtime, one arithmetic. Chosen once when the worker starts.
 */
import type * as Ort from 'onnxruntime-web';
import { StudioError } from '../core/errors.ts';
import type { BlockMode, DeviceReport } from '../core/job.ts';
import type { BlockGraphs, Provider } from '../graphs/graph.ts';
import type { Arithmetic, DeviceTensor } from './arithmetic.ts';
import { convert } from '../weights/conversion.ts';
import { mount } from '../weights/virtual_file.ts';
import { attentionIsRight } from './attention_check.ts';
import { ArrayBlockMemory, GpuBlockMemory } from './block_memory.ts';
import { BlockNetwork } from './block_network.ts';
import { leastBytes, placeBlocks } from './block_placement.ts';
import type { WeightChanges } from './weight_changes.ts';
import { CpuArithmetic } from './cpu_arithmetic.ts';
import { findAdapter, type Adapter } from './device.ts';
import { GpuArithmetic } from './gpu_arithmetic.ts';
import { Ledger } from './ledger.ts';
import { threadsFor } from './threads.ts';
import { Runtime, lossOf, rejection, type Network, type RunnableGraph } from './runtime.ts';

export interface EngineOptions {
  /** `auto` takes WebGPU if there is a hardware adapter, else the wasm provider. */
  backend: 'auto' | 'webgpu' | 'wasm';
  /** `auto` computes in f16 if the GPU can. */
  precision: 'auto' | 'f32' | 'f16';
  /** Counts every launch; for measurements only, since it slows the engine. */
  countLaunches: boolean;
  /** Threads for computing on the processor, from the address; the best number by default. */
  threads?: string | null;
  /** See {@link Runtime.load}. */
  runtimeFiles?: string;
  /** See {@link Engine.blocks}; `auto` by default. */
  blocks?: BlockMode;
}

export interface BlockOptions {
  /** Bytes that weights may take on the device. */
  budget: number;
  /** As of {@link Runtime.createNetwork}. */
  onBytes: (bytes: number) => void;
  /** See {@link BlockNetwork.run}. */
  isCancelled: () => boolean;
}

export class Engine {
  private constructor(
    readonly runtime: Runtime,
    readonly device: GPUDevice | null,
    readonly arithmetic: Arithmetic,
    readonly report: DeviceReport,
    readonly ledger: Ledger,
    /** How networks run that can be cut into blocks. */
    readonly blocks: BlockMode,
  ) {}

  get provider(): Provider {
    return this.report.backend;
  }

  /**
   * @throws StudioError `no_webgpu` if WebGPU is forced but unavailable, `gpu_lost`
   */
  static async start(options: EngineOptions): Promise<Engine> {
    const ledger = new Ledger();
    ledger.watchMemories();
    const adapter = options.backend === 'wasm' ? null : await findAdapter();
    if (options.backend === 'webgpu' && !adapter) {
      throw new StudioError(
        'no_webgpu',
        'WebGPU was asked for, but this browser offers no GPU adapter; use a current Chrome, Edge, Firefox or Safari with hardware acceleration on, or open the page without ?backend=webgpu.',
      );
    }
    const usesGpu = adapter && (!adapter.software || options.backend === 'webgpu');
    const { threads, note: threadsNote } = await threadsFor(usesGpu ? 'webgpu' : 'wasm', options.threads ?? null);
    const runtime = await Runtime.load(threads, options.runtimeFiles);
    const onCpu = (note: string) =>
      Engine.#onCpu(runtime, ledger, threads, threadsNote === null ? note : `${note} ${threadsNote}`, options.blocks);
    if (!usesGpu) {
      const note =
        options.backend === 'wasm'
          ? 'Runs on the processor, as the address asks (?backend=wasm).'
          : adapter
            ? `Runs on the processor, because the only GPU adapter here (${adapter.name}) is a software one, which would be slower.`
            : 'Runs on the processor, because this browser offers no WebGPU adapter; pictures take much longer than on a GPU.';
      return onCpu(note);
    }

    const opened = await openTrusted(adapter, runtime, ledger, options);
    if (!opened) {
      const note = `Runs on the processor, because attention computed on this GPU (${adapter.name}) is wrong.`;
      if (options.backend === 'webgpu') {
        throw new StudioError(
          'no_webgpu',
          `WebGPU was asked for, but attention computed on this GPU (${adapter.name}) is wrong; open the page without ?backend=webgpu.`,
        );
      }
      return onCpu(note);
    }
    const device = opened;
    runtime.attach(device);
    const precision = options.precision === 'f32' || !device.features.has('shader-f16') ? 'f32' : 'f16';
    const report: DeviceReport = {
      backend: 'webgpu',
      note:
        options.precision === 'f16' && precision === 'f32'
          ? 'This GPU has no half precision (shader-f16), so single precision is used.'
          : threadsNote,
      adapter: adapter.name,
      precision,
      limits: {
        maxBufferSize: device.limits.maxBufferSize,
        maxStorageBufferBindingSize: device.limits.maxStorageBufferBindingSize,
      },
      runtime: runtime.build,
      threads,
    };
    const arithmetic = new GpuArithmetic(device, runtime.ort, (work) => runtime.guard(work));
    return new Engine(runtime, device, arithmetic, report, ledger, options.blocks ?? 'auto');
  }

  /** On a runtime that is loaded already. */
  static onProcessor(runtime: Runtime, threads: number, note: string): Engine {
    return Engine.#onCpu(runtime, new Ledger(), threads, note);
  }

  static #onCpu(runtime: Runtime, ledger: Ledger, threads: number, note: string, blocks: BlockMode = 'auto'): Engine {
    const report: DeviceReport = {
      backend: 'wasm',
      note,
      adapter: 'processor',
      precision: 'f32',
      limits: null,
      runtime: runtime.build,
      threads,
    };
    return new Engine(runtime, null, new CpuArithmetic(runtime.ort), report, ledger, blocks);
  }

  /** Resolves with `gpu_lost` when the device is lost; its worker must be replaced then, see {@link Runtime.lost}. */
  get lost(): Promise<StudioError> {
    return this.runtime.lost;
  }

  /** @param onBytes as of {@link Runtime.createNetwork} */
  createNetwork(graph: RunnableGraph, blobs: Map<string, Blob>, onBytes?: (bytes: number) => void): Promise<Network> {
    return this.runtime.createNetwork(graph, blobs, { name: this.provider, device: this.device }, onBytes);
  }

  /**
   * A network in blocks whose weights are read from `blobs` as long as it lives.
   * @throws StudioError `out_of_memory` where not even streamed blocks have room
   */
  createBlocks(graphs: BlockGraphs, blobs: Map<string, Blob>, options: BlockOptions): Promise<BlockNetwork> {
    const { device, arithmetic, runtime } = this;
    const sizes = graphs.blocks.map(({ weightBytes }) => weightBytes);
    const budget = Math.max(options.budget, this.blocks === 'streamed' ? leastBytes(sizes) : 0);
    const placement = placeBlocks(sizes, budget);
    if (!placement) {
      throw new StudioError(
        'out_of_memory',
        'There was not enough memory for this; choose a smaller size, batch or checkpoint.',
        { retry: 'smaller' },
      );
    }
    const { isCancelled, onBytes } = options;
    return BlockNetwork.open(graphs, placement, {
      memory: device
        ? new GpuBlockMemory(budget, device, runtime.ort, () => arithmetic.settle())
        : new ArrayBlockMemory(budget, runtime.ort),
      mount: (externals) => mount([...externals], blobs, runtime.build, onBytes),
      open: (graph) => this.createNetwork(graph, blobs, onBytes),
      empty: (dims) => arithmetic.empty(dims),
      isCancelled,
      uploads: this.ledger.uploads,
    });
  }

  /**
   * Writes those of a network's weights again that changed.
   * @throws as {@link BlockNetwork.change}
   */
  changeWeights(
    network: BlockNetwork,
    changes: WeightChanges,
    blobs: Map<string, Blob>,
    onBytes: (bytes: number) => void,
  ): Promise<void> {
    return network.change(changes, (externals) => mount([...externals], blobs, this.runtime.build, onBytes));
  }

  /**
   * A small input that stays in CPU memory, where ONNX Runtime reads it, in whichever type a network wants.
   * Integer types get the nearest integer.
   * @throws TypeError for types that none of our networks takes
   */
  hostTensor(type: Ort.Tensor.Type, values: ArrayLike<number>, dims: readonly number[]): DeviceTensor {
    const { ort } = this.runtime;
    return { dims, ort: new ort.Tensor(type, numbersOf(type, values), [...dims]), dispose: () => undefined };
  }

  /** Runs `network` on device tensors. */
  run(network: Network, inputs: Record<string, DeviceTensor>, outputs: Record<string, DeviceTensor>): Promise<void> {
    return this.ledger.count(network.run(ortTensors(inputs), ortTensors(outputs)));
  }
}

function numbersOf(type: Ort.Tensor.Type, values: ArrayLike<number>) {
  switch (type) {
    case 'float32':
      return Float32Array.from(values);
    case 'float16':
      return new Uint16Array(convert(new Uint8Array(Float32Array.from(values).buffer), 'F32', 'F16').buffer);
    case 'float64':
      return Float64Array.from(values);
    case 'int32':
      return Int32Array.from(values, Math.round);
    case 'int64':
      return BigInt64Array.from({ length: values.length }, (_, i) => BigInt(Math.round(values[i])));
    default:
      throw new TypeError(`No network is fed with ${type}.`);
  }
}

function ortTensors(tensors: Record<string, DeviceTensor>): Record<string, DeviceTensor['ort']> {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.ort]));
}

/** A device whose attention was checked: with subgroups if they can be trusted, else without. */
async function openTrusted(
  adapter: Adapter,
  runtime: Runtime,
  ledger: Ledger,
  options: EngineOptions,
): Promise<GPUDevice | null> {
  for (const subgroups of adapter.trustsSubgroups ? [true, false] : [false]) {
    // An adapter opens only one device, so a second try needs a new adapter.
    const device = await (subgroups === adapter.trustsSubgroups ? adapter : ((await findAdapter()) ?? adapter)).open({
      subgroups,
    });
    ledger.watch(device, options.countLaunches);
    // Waiting for a lost device may never end.
    if (await Promise.race([attentionIsRight(runtime, device), rejection(lossOf(device))])) {
      return device;
    }
    device.destroy();
  }
  return null;
}
