/**
 * ONNX Runtime behind one mutex: loads the right build, creates sessions from graphs, runs and releases them.
 */
import type * as Ort from 'onnxruntime-web';
import { StudioError, describe } from '../core/errors.ts';
import type { Graph, Provider } from '../graphs/graph.ts';
import { within } from '../weights/patience.ts';
import { mount } from '../weights/virtual_file.ts';
import { Mutex } from './mutex.ts';
import { runtimeBuild } from '../core/runtime_build.ts';
import { withQuickUploads } from './weight_uploads.ts';

export type OrtModule = typeof Ort;
export type RuntimeBuild = 'jspi' | 'asyncify' | 'node';

/** One input or output, as the session describes it. */
export interface TensorPort {
  name: string;
  type: Ort.Tensor.Type;
  /** Row-major; a string names a dynamic dimension. Empty for a scalar, and if the model does not say. */
  dims: readonly (number | string)[];
}

/** A network ready to run. Its tensors are ONNX Runtime's, on the CPU or over our GPU buffers. */
export interface Network {
  inputs: TensorPort[];
  outputs: TensorPort[];
  /** Runs once, computing and writing the given `outputs`. Rejects with `gpu_lost` or `out_of_memory` if that is the cause.
   */
  run(inputs: Record<string, Ort.Tensor>, outputs: Record<string, Ort.Tensor>): Promise<void>;
  release(): Promise<void>;
}

/** A model for the runtime, with external weights. */
export interface RunnableGraph extends Pick<Graph, 'bytes' | 'externals' | 'blocks'> {
  /** See {@link Graph.adjustable}. */
  adjustable?: Graph['adjustable'];
  /** See {@link Graph.repeated}. */
  repeated?: Graph['repeated'];
  /** Bytes of all its external initializers on the device, if known. */
  weightBytes?: number;
  /** Values for the model's dynamic dimensions. */
  freeDimensions?: Record<string, number>;
  /** Names of nodes that run on the CPU with any provider. */
  cpuNodes?: string[];
}

/**
 * Milliseconds to wait after a failure to see whether the device is lost. The loss is reported separately, and failures caused by it often
 * look like running out of memory, since not even the smallest buffer can be created.
 */
const LOSS_SHOWS_WITHIN = 500;

/** Makes a session in place of the runtime itself, of weights that are read as streams. */
export type OpenSession = (
  graph: RunnableGraph,
  weights: readonly { path: string; data: Blob }[],
) => Promise<Ort.InferenceSession>;

export class Runtime {
  readonly #mutex = new Mutex();
  #lost: Promise<StudioError> | undefined;
  /** Rejects when the device is lost; every wait races with it, because a run on a lost device may never settle. */
  #loss: Promise<never> | undefined;
  #lostError: StudioError | undefined;
  #fault: StudioError | undefined;

  private constructor(
    readonly ort: OrtModule,
    readonly build: RuntimeBuild,
    readonly openSession: OpenSession | null = null,
  ) {}

  /** One that is loaded already, on the processor. */
  static over(ort: OrtModule, openSession: OpenSession): Runtime {
    return new Runtime(ort, 'node', openSession);
  }

  /**
   * Loads the build for this browser, see {@link runtimeBuild}.
   * @param threads for computing on the processor, see `threads.ts`
   * @param files where the runtime's own files lie, an address that ends in a slash; by default those that the bundler found. A page of another
   *   origin needs it, as the runtime's threads begin from a script that it fetches there.
   */
  static async load(threads: number, files?: string): Promise<Runtime> {
    const build = runtimeBuild(WebAssembly);
    const ort: OrtModule =
      build === 'jspi' ? await import('onnxruntime-web/jspi') : await import('onnxruntime-web/webgpu');
    ort.env.wasm.numThreads = threads;
    if (files !== undefined) {
      ort.env.wasm.wasmPaths = files;
    }
    ort.env.logLevel = 'error';
    return new Runtime(ort, build);
  }

  /** Sessions with the `webgpu` provider run on this device; its loss or errors fail the call in progress. */
  attach(device: GPUDevice): void {
    this.#lost = lossOf(device).then((error) => (this.#lostError = error));
    this.#loss = rejection(this.#lost);
    device.addEventListener('uncapturederror', (event) => {
      this.#fault ??= gpuFault(event.error);
    });
  }

  /** @param onBytes called with the length of each range of weights loaded onto the device */
  createNetwork(
    graph: RunnableGraph,
    blobs: Map<string, Blob>,
    provider: { name: Provider; device: GPUDevice | null },
    onBytes: (bytes: number) => void = () => undefined,
  ): Promise<Network> {
    return this.#exclusive(async () => {
      const weights = mount(graph.externals, blobs, this.build, onBytes);
      const create = () =>
        this.openSession?.(graph, weights.files as { path: string; data: Blob }[]) ??
        this.ort.InferenceSession.create(graph.bytes, {
          executionProviders: [
            provider.name === 'webgpu'
              ? ({
                  name: 'webgpu',
                  device: provider.device,
                  preferredLayout: 'NHWC',
                  validationMode: 'disabled',
                  storageBufferCacheMode: 'simple',
                  ...(graph.cpuNodes?.length && { forceCpuNodeNames: graph.cpuNodes }),
                } as Ort.InferenceSession.ExecutionProviderConfig)
              : 'wasm',
          ],
          externalData: weights.files,
          preferredOutputLocation: provider.name === 'webgpu' ? 'gpu-buffer' : 'cpu',
          ...(graph.freeDimensions && { freeDimensionOverrides: graph.freeDimensions }),
          graphOptimizationLevel: 'all',
          logSeverityLevel: 3,
        });
      const session = await (provider.device ? withQuickUploads(provider.device, create) : create()).finally(() => {
        weights.close();
      });
      return {
        inputs: session.inputMetadata.map(port),
        outputs: session.outputMetadata.map(port),
        run: (inputs, outputs) =>
          this.#exclusive(async () => {
            if (provider.name === 'webgpu') {
              await session.run(inputs, outputs);
              return;
            }
            // The runtime does not fill tensors given for CPU outputs; it creates its own.
            for (const [name, computed] of Object.entries(await session.run(inputs, Object.keys(outputs)))) {
              bytesOf(outputs[name]).set(bytesOf(computed));
            }
          }),
        release: () => this.#mutex.run(() => session.release()),
      };
    });
  }

  /** Serialises `task` with all other calls, and turns the runtime's failures into one sentence. */
  #exclusive<T>(task: () => Promise<T>): Promise<T> {
    return this.#mutex.run(() => this.guard(task()));
  }

  /**
   * Resolves with `gpu_lost` when the device is lost, whether or not anybody is waiting. After that nothing created by this runtime can be
   * used, nor can another device be opened in this worker (measured: a new session hangs).
   */
  get lost(): Promise<StudioError> {
    return this.#lost ?? new Promise(() => undefined);
  }

  /**
   * Resolves to the result of `work`, unless the GPU was lost or refused a command meanwhile: GPU errors arrive asynchronously, so they
   * surface where something is awaited.
   * @throws StudioError `gpu_lost` | `out_of_memory` | `internal`
   */
  async guard<T>(work: Promise<T>): Promise<T> {
    try {
      const result = await (this.#loss ? Promise.race([work, this.#loss]) : work);
      if (this.#lostError || this.#fault) {
        throw new Error('The GPU reported an error.');
      }
      return result;
    } catch (thrown) {
      throw await this.#explain(thrown);
    }
  }

  async #explain(thrown: unknown): Promise<StudioError> {
    if (thrown instanceof StudioError) {
      return thrown;
    }
    // Check for a lost device before blaming memory.
    const lost = this.#lost && (await within(LOSS_SHOWS_WITHIN, this.#lost));
    if (lost) {
      return lost;
    }
    const fault = this.#fault;
    if (fault) {
      this.#fault = undefined;
      return fault;
    }
    const text = describe(thrown);
    if (/out of memory|allocation failed|bad_alloc|exceeds the max buffer size|failed to allocate/i.test(text)) {
      return new StudioError(
        'out_of_memory',
        'There was not enough memory for this; choose a smaller size, batch or checkpoint.',
        { retry: 'smaller', cause: thrown },
      );
    }
    if (/no available backend found|previous call to 'initWasm\(\)' failed/i.test(text)) {
      return new StudioError(
        'internal',
        `ONNX Runtime's WebAssembly could not be started (${text.slice(0, 200)}); whoever serves this page must serve that file, and allow 'wasm-unsafe-eval' where a policy restricts scripts.`,
        { retry: 'same', cause: thrown },
      );
    }
    if (/returned while running .* node/i.test(text)) {
      // A kernel that cannot compute this never will.
      return new StudioError(
        'internal',
        `This device cannot compute that (${text.slice(0, 300)}); choose another size or checkpoint, and tell Darkroom's makers.`,
        { retry: 'smaller', cause: thrown },
      );
    }
    return new StudioError('internal', `The engine failed (${text.slice(0, 300)}); try again, or reload the page.`, {
      retry: 'same',
      cause: thrown,
    });
  }
}

/** Resolves with `gpu_lost` when this device is. */
export async function lossOf(device: GPUDevice): Promise<StudioError> {
  const { message } = await device.lost;
  return new StudioError('gpu_lost', 'The GPU stopped responding and its work was lost; try again.', {
    retry: 'same',
    cause: message,
  });
}

/** Rejects with what `error` resolves to; safe to leave unhandled. */
export function rejection(error: Promise<StudioError>): Promise<never> {
  const rejects = error.then((reason): never => {
    throw reason;
  });
  rejects.catch(() => undefined);
  return rejects;
}

function port(metadata: Ort.InferenceSession.ValueMetadata): TensorPort {
  // Sequences and maps have no type here; whoever feeds the network refuses them.
  return metadata.isTensor
    ? { name: metadata.name, type: metadata.type, dims: metadata.shape }
    : { name: metadata.name, type: 'string', dims: [] };
}

function bytesOf(tensor: Ort.Tensor): Uint8Array {
  const { buffer, byteOffset, byteLength } = tensor.data as Float32Array;
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function gpuFault(error: GPUError): StudioError {
  if (error instanceof GPUOutOfMemoryError) {
    return new StudioError(
      'out_of_memory',
      'The GPU has not enough memory for this; choose a smaller size, batch or checkpoint.',
      { retry: 'smaller', cause: error },
    );
  }
  return new StudioError(
    'internal',
    `The GPU refused a command (${error.message.slice(0, 300)}); try a smaller size, or reload the page.`,
    { retry: 'smaller', cause: error },
  );
}
