/**
 * ONNX Runtime, held by one mutex: loads the right build, creates sessions from graphs, runs and releases them.
 */
import type * as Ort from 'onnxruntime-web';
import { StudioError, describe } from '../core/errors.ts';
import type { Graph, Provider } from '../graphs/graph.ts';
import { within } from '../weights/patience.ts';
import { mount } from '../weights/virtual_file.ts';
import { Mutex } from './mutex.ts';
import { withQuickUploads } from './weight_uploads.ts';

export type OrtModule = typeof Ort;
export type RuntimeBuild = 'jspi' | 'asyncify';

/** What the session says of one input or output. */
export interface TensorPort {
  name: string;
  type: Ort.Tensor.Type;
  /** Row-major; a string is the name of a dimension that is not fixed. Empty for a scalar, and where the model says nothing. */
  dims: readonly (number | string)[];
}

/** A network ready to run. Tensors in and out are ONNX Runtime's own, on the CPU or over our GPU buffers. */
export interface Network {
  inputs: TensorPort[];
  outputs: TensorPort[];
  /**
   * Runs once, computing and writing into those `outputs` that are given. Rejects with `gpu_lost` or `out_of_memory` where that is the
   * reason.
   */
  run(inputs: Record<string, Ort.Tensor>, outputs: Record<string, Ort.Tensor>): Promise<void>;
  release(): Promise<void>;
}

/** A model for the runtime, its weights outside of it. */
export interface RunnableGraph extends Pick<Graph, 'bytes' | 'externals'> {
  /** Of all its initializers that lie outside the model, on the device; where it is known. */
  weightBytes?: number;
  /** Values for dimensions that the model only names. */
  freeDimensions?: Record<string, number>;
  /** Names of nodes that run on the CPU whatever the provider. */
  cpuNodes?: string[];
}

/**
 * Milliseconds that a failure waits to see whether the device is lost. The loss is told on a way of its own, and what fails because of it
 * often looks like want of memory: even the smallest buffer cannot be made then.
 */
const LOSS_SHOWS_WITHIN = 500;

export class Runtime {
  readonly #mutex = new Mutex();
  #lost: Promise<StudioError> | undefined;
  /** Rejects when the device is lost; everything waited for races with it, because a run on a lost device may never settle. */
  #loss: Promise<never> | undefined;
  #lostError: StudioError | undefined;
  #fault: StudioError | undefined;

  private constructor(
    readonly ort: OrtModule,
    readonly build: RuntimeBuild,
  ) {}

  /**
   * Loads the build for this browser; JSPI streams weights and is smaller.
   * @param threads that compute on the processor, see `threads.ts`
   */
  static async load(threads: number): Promise<Runtime> {
    const jspi = 'Suspending' in WebAssembly;
    const ort: OrtModule = jspi ? await import('onnxruntime-web/jspi') : await import('onnxruntime-web/webgpu');
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = 'error';
    return new Runtime(ort, jspi ? 'jspi' : 'asyncify');
  }

  /** Sessions of provider `webgpu` run on this device; its loss or errors fail the call that is under way. */
  attach(device: GPUDevice): void {
    this.#lost = lossOf(device).then((error) => (this.#lostError = error));
    this.#loss = rejection(this.#lost);
    device.addEventListener('uncapturederror', (event) => {
      this.#fault ??= gpuFault(event.error);
    });
  }

  /** @param onBytes called with the length of each range of weights that is taken to the device */
  createNetwork(
    graph: RunnableGraph,
    blobs: Map<string, Blob>,
    provider: { name: Provider; device: GPUDevice | null },
    onBytes: (bytes: number) => void = () => undefined,
  ): Promise<Network> {
    return this.#exclusive(async () => {
      const weights = mount(graph.externals, blobs, this.build, onBytes);
      const create = () =>
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
            // Tensors given for CPU outputs are not filled by the runtime; it makes its own.
            for (const [name, computed] of Object.entries(await session.run(inputs, Object.keys(outputs)))) {
              bytesOf(outputs[name]).set(bytesOf(computed));
            }
          }),
        release: () => this.#mutex.run(() => session.release()),
      };
    });
  }

  /** Serialises `task` with every other call, and turns the engine's failures into one sentence. */
  #exclusive<T>(task: () => Promise<T>): Promise<T> {
    return this.#mutex.run(() => this.guard(task()));
  }

  /**
   * Resolves with `gpu_lost` when the device is lost, whether or not anybody waits for it. After that nothing made of this runtime can be
   * used, and no other device opened in this worker either (measured: a new session hangs).
   */
  get lost(): Promise<StudioError> {
    return this.#lost ?? new Promise(() => undefined);
  }

  /**
   * What `work` resolves to, unless the GPU was lost or refused a command meanwhile: GPU errors arrive asynchronously,
   * so they show at the points where something is waited for.
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
    // Before anything is called want of memory.
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
    if (/returned while running .* node/i.test(text)) {
      // A kernel that cannot compute this will not the next time either.
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

/** Rejects with what `error` resolves to; nobody needs to wait for it. */
export function rejection(error: Promise<StudioError>): Promise<never> {
  const rejects = error.then((reason): never => {
    throw reason;
  });
  rejects.catch(() => undefined);
  return rejects;
}

function port(metadata: Ort.InferenceSession.ValueMetadata): TensorPort {
  // Sequences and maps have no type of ours; whoever feeds the network refuses them by it.
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
