/** Adds LoRAs' products to weights where they lie on the GPU: there it takes as long as one step of one layer, on the processor longer than loading. */
import source from './kernels/add_product.wgsl?raw';

/** Several products of matrices, side by side as one. */
export interface Product {
  rows: number;
  /** A multiple of four. */
  columns: number;
  rank: number;
  /** [rank, rows], with the strengths; rows are filled up to a multiple of four with zeros. */
  up: Float32Array<ArrayBuffer>;
  /** [rank, columns] */
  down: Float32Array<ArrayBuffer>;
}

type WeightType = 'float32' | 'float16';

const ACCESS: Record<WeightType, string> = {
  float32: `
@group(0) @binding(3) var<storage, read_write> weights: array<vec4f>;
fn weight(at: u32) -> vec4f { return weights[at]; }
fn set_weight(at: u32, value: vec4f) { weights[at] = value; }
`,
  // Packed by hand, so that it works where shaders have no halves.
  float16: `
@group(0) @binding(3) var<storage, read_write> weights: array<vec2u>;
fn weight(at: u32) -> vec4f { return vec4f(unpack2x16float(weights[at].x), unpack2x16float(weights[at].y)); }
fn set_weight(at: u32, value: vec4f) { weights[at] = vec2u(pack2x16float(value.xy), pack2x16float(value.zw)); }
`,
};
/** Columns and rows of one workgroup. */
const [COLUMNS, ROWS] = [16 * 8, 4 * 8];
/** Where parts of a buffer may be bound. */
const ALIGNED = 256;

const adders = new WeakMap<GPUDevice, ProductAdder>();

export class ProductAdder {
  readonly #device: GPUDevice;
  readonly #pipelines = new Map<WeightType, GPUComputePipeline>();

  private constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** The device's own, which compiles once. */
  static of(device: GPUDevice): ProductAdder {
    const adder = adders.get(device) ?? new ProductAdder(device);
    adders.set(device, adder);
    return adder;
  }

  /** @param weights [rows, columns], as they were written */
  add(weights: GPUBuffer, type: WeightType, { rows, columns, rank, up, down }: Product): void {
    const device = this.#device;
    const pipeline = this.#pipelines.get(type) ?? this.#compile(type);
    const parts = [Uint32Array.of(rows, columns / 4, rank, up.length / rank / 4), up, down];
    const offsets = parts.map((_, n) =>
      parts.slice(0, n).reduce((sum, { byteLength }) => sum + aligned(byteLength), 0),
    );
    const buffer = device.createBuffer({
      size: offsets[2] + down.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
    });
    parts.forEach((part, n) => {
      device.queue.writeBuffer(buffer, offsets[n], part);
    });
    const bound = parts.map(({ byteLength: size }, n) => ({ buffer, offset: offsets[n], size }));
    const group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [...bound, { buffer: weights }].map((resource, binding) => ({ binding, resource })),
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(Math.ceil(columns / COLUMNS), Math.ceil(rows / ROWS));
    pass.end();
    device.queue.submit([encoder.finish()]);
    // The queue keeps what it needs.
    buffer.destroy();
  }

  #compile(type: WeightType): GPUComputePipeline {
    const label = `add_product_${type}`;
    const module = this.#device.createShaderModule({ label, code: ACCESS[type] + source });
    const pipeline = this.#device.createComputePipeline({
      label,
      layout: 'auto',
      compute: { module, entryPoint: 'main' },
    });
    this.#pipelines.set(type, pipeline);
    return pipeline;
  }
}

function aligned(length: number): number {
  return Math.ceil(length / ALIGNED) * ALIGNED;
}
