/** Where blocks keep their weights: in buffers of the GPU, or in arrays. What is taken is counted, and never more than was granted. */
import type * as Ort from 'onnxruntime-web';
import { StudioError } from '../core/errors.ts';
import { onDevice, type BlockWeight } from '../graphs/graph.ts';
import { ProductAdder, type Product } from './product_adder.ts';
import type { OrtModule } from './runtime.ts';

/** Bytes per write, see weight_uploads.ts. */
const WRITE = 4 * 2 ** 20;
/** Labels the buffers, so that the ledger counts them apart. */
export const WEIGHTS = 'weights';

type WeightType = BlockWeight['type'];

/** One weight on the device. */
export interface WeightBuffer {
  /** What it takes there. */
  readonly bytes: number;
  /** ONNX Runtime's view of it as a tensor of any shape with so many bytes. */
  view(type: WeightType, dims: readonly number[]): Ort.Tensor;
  /** @param part is copied at once; a multiple of four bytes */
  write(at: number, part: Uint8Array<ArrayBuffer>): void;
  /** Adds it to the numbers that were written; see {@link BlockMemory.addsProducts}. */
  add(type: WeightType, product: Product): void;
  dispose(): void;
}

export abstract class BlockMemory {
  #taken = 0;
  #most = 0;

  /** @param budget bytes that may be taken at one time */
  constructor(readonly budget: number) {}

  /** Bytes that are taken now, and that were at most. */
  get taken(): number {
    return this.#taken;
  }

  get most(): number {
    return this.#most;
  }

  /** @throws StudioError `out_of_memory` for more than the budget */
  take(length: number): WeightBuffer {
    const bytes = onDevice(length);
    if (this.#taken + bytes > this.budget) {
      throw new StudioError(
        'out_of_memory',
        'There was not enough memory for this; choose a smaller size, batch or checkpoint.',
        { retry: 'smaller', cause: { taken: this.#taken, budget: this.budget, bytes } },
      );
    }
    const buffer = this.create(bytes);
    this.#taken += bytes;
    this.#most = Math.max(this.#most, this.#taken);
    return {
      bytes,
      view: (type, dims) => buffer.view(type, dims),
      write: (at, part) => {
        buffer.write(at, part);
      },
      add: (type, product) => {
        buffer.add(type, product);
      },
      dispose: () => {
        this.#taken -= bytes;
        buffer.dispose();
      },
    };
  }

  /** Whether it adds products of matrices itself. */
  abstract readonly addsProducts: boolean;
  /** Resolves once everything submitted so far is computed. */
  abstract settle(): Promise<void>;
  protected abstract create(bytes: number): WeightBuffer;
}

export class GpuBlockMemory extends BlockMemory {
  readonly addsProducts = true;
  readonly #adder: ProductAdder;
  readonly #device: GPUDevice;
  readonly #ort: OrtModule;
  readonly #settle: () => Promise<void>;

  constructor(budget: number, device: GPUDevice, ort: OrtModule, settle: () => Promise<void>) {
    super(budget);
    this.#device = device;
    this.#adder = ProductAdder.of(device);
    this.#ort = ort;
    this.#settle = settle;
  }

  settle(): Promise<void> {
    return this.#settle();
  }

  protected create(bytes: number): WeightBuffer {
    const device = this.#device;
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = device.createBuffer({ label: WEIGHTS, size: bytes, usage });
    const { Tensor } = this.#ort;
    return {
      bytes,
      view: (dataType, dims) => Tensor.fromGpuBuffer(buffer, { dataType, dims: [...dims] }),
      write: (at, part) => {
        for (let done = 0; done < part.length; done += WRITE) {
          device.queue.writeBuffer(buffer, at + done, part, done, Math.min(WRITE, part.length - done));
        }
      },
      add: (type, product) => {
        if (type === 'uint8') {
          throw new TypeError('Blocks of quantised numbers cannot be added to.');
        }
        this.#adder.add(buffer, type, product);
      },
      dispose: () => {
        buffer.destroy();
      },
    };
  }
}

export class ArrayBlockMemory extends BlockMemory {
  readonly addsProducts = false;
  readonly #ort: OrtModule;

  constructor(budget: number, ort: OrtModule) {
    super(budget);
    this.#ort = ort;
  }

  settle(): Promise<void> {
    return Promise.resolve();
  }

  protected create(bytes: number): WeightBuffer {
    const memory = new Uint8Array(bytes);
    return {
      bytes,
      view: (type, dims) => {
        const count = dims.reduce((product, dim) => product * dim, 1);
        return type === 'uint8'
          ? new this.#ort.Tensor('uint8', memory.subarray(0, count), [...dims])
          : type === 'float16'
            ? new this.#ort.Tensor('float16', new Uint16Array(memory.buffer, 0, count), [...dims])
            : new this.#ort.Tensor('float32', new Float32Array(memory.buffer, 0, count), [...dims]);
      },
      write: (at, part) => {
        memory.set(part, at);
      },
      add: () => {
        throw new TypeError('Arrays are written whole.');
      },
      dispose: () => undefined,
    };
  }
}
