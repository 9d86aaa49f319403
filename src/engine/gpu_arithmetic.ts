/** The arithmetic on the GPU: one dispatch of a kernel per operation, on the queue that ONNX Runtime also uses. */
import type * as Ort from 'onnxruntime-web';
import { StudioError } from '../core/errors.ts';
import type { PixelImage } from '../core/media.ts';
import {
  EMPTY,
  NOT_FINITE,
  SNAPSHOT,
  elements,
  type Arithmetic,
  type DeviceTensor,
  type PreviewColours,
  type Snapshots,
  type StepArguments,
  type TwoPredictions,
} from './arithmetic.ts';
import type { GuidanceWeights, Moments } from '../guidance/guidance.ts';
import { LONGEST_HISTORY } from '../samplers/sampler.ts';
import combineSource from './kernels/combine.wgsl?raw';
import finiteSource from './kernels/finite.wgsl?raw';
import guideSource from './kernels/guide.wgsl?raw';
import momentsSource from './kernels/moments.wgsl?raw';
import narrowSource from './kernels/narrow.wgsl?raw';
import pixelsSource from './kernels/pixels.wgsl?raw';
import posteriorSource from './kernels/posterior.wgsl?raw';
import previewSource from './kernels/preview.wgsl?raw';
import stepSource from './kernels/step.wgsl?raw';
import widenSource from './kernels/widen.wgsl?raw';
import type { OrtModule } from './runtime.ts';

const WORKGROUP = 64;
const MAX_GROUPS = 65535;
const MAX_PREVIEW_CHANNELS = 16;
const USAGE = 0x80 | 0x4 | 0x8; // STORAGE | COPY_SRC | COPY_DST

type ElementType = 'float32' | 'float16' | 'int32';

class GpuTensor implements DeviceTensor {
  readonly ort: Ort.Tensor;

  constructor(
    ort: OrtModule,
    readonly buffer: GPUBuffer,
    readonly dims: readonly number[],
    dataType: ElementType,
  ) {
    this.ort = ort.Tensor.fromGpuBuffer(buffer, { dataType, dims: [...dims] });
  }

  dispose(): void {
    this.buffer.destroy();
  }
}

/** A uniform block written word by word, in the order of the WGSL struct. */
class Uniforms {
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: number) {
    this.#view = new DataView(new ArrayBuffer(bytes));
  }

  u32(...values: number[]): this {
    for (const value of values) {
      this.#view.setUint32(this.#at, value, true);
      this.#at += 4;
    }
    return this;
  }

  f32(...values: number[]): this {
    for (const value of values) {
      this.#view.setFloat32(this.#at, value, true);
      this.#at += 4;
    }
    return this;
  }

  get bytes(): ArrayBuffer {
    return this.#view.buffer as ArrayBuffer;
  }
}

export class GpuArithmetic implements Arithmetic {
  readonly #pipelines = new Map<string, GPUComputePipeline>();
  #previewPipeline: GPURenderPipeline | undefined;
  readonly #canvases = new WeakSet<OffscreenCanvas>();

  constructor(
    readonly device: GPUDevice,
    readonly ort: OrtModule,
    /** Waits for something on the queue, and throws any error there. */
    readonly guard: <T>(work: Promise<T>) => Promise<T>,
  ) {}

  upload(data: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>, dims: readonly number[]): GpuTensor {
    const tensor = this.#tensor(dims, data instanceof Int32Array ? 'int32' : 'float32');
    this.device.queue.writeBuffer(tensor.buffer, 0, data);
    return tensor;
  }

  empty(dims: readonly number[], type: 'float32' | 'float16' = 'float32'): GpuTensor {
    return this.#tensor(dims, type);
  }

  convert(out: DeviceTensor, from: DeviceTensor): void {
    const count = elements(out.dims);
    const uniforms = new Uniforms(16).u32(count);
    if (out.ort.type === 'float16') {
      this.#dispatch('narrow', narrowSource, uniforms, [buffer(from), buffer(out)], Math.ceil(count / 2));
    } else {
      this.#dispatch('widen', widenSource, uniforms, [buffer(from), buffer(out)], count);
    }
  }

  write(tensor: DeviceTensor, data: Float32Array<ArrayBuffer>): void {
    this.device.queue.writeBuffer(buffer(tensor), 0, data);
  }

  copy(from: DeviceTensor, start: number, to: DeviceTensor, at: number, count: number): void {
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer(from), start * 4, buffer(to), at * 4, count * 4);
    this.device.queue.submit([encoder.finish()]);
  }

  async read(tensor: DeviceTensor): Promise<Float32Array<ArrayBuffer>> {
    const bytes = await this.#readBuffer(buffer(tensor), elements(tensor.dims) * 4);
    return new Float32Array(bytes);
  }

  combine(out: DeviceTensor, a: number, x: DeviceTensor, b: number, y: DeviceTensor | null, copies = 1): void {
    const count = elements(out.dims) / copies;
    const other = y ?? x;
    const uniforms = new Uniforms(32).u32(count, copies, elements(x.dims), elements(other.dims)).f32(a, y ? b : 0);
    this.#dispatch('combine', combineSource, uniforms, [buffer(x), buffer(other), buffer(out)], count);
  }

  posterior(out: DeviceTensor, moments: DeviceTensor, noise: DeviceTensor, scale: number): void {
    const count = elements(out.dims);
    const uniforms = new Uniforms(16).u32(count).f32(scale);
    this.#dispatch('posterior', posteriorSource, uniforms, [buffer(moments), buffer(noise), buffer(out)], count);
  }

  async moments({ uncond, cond, condOffset, count }: TwoPredictions, pictures: number): Promise<Moments[]> {
    const size = count / pictures;
    const sums = this.#tensor([pictures * 5], 'float32');
    try {
      const uniforms = new Uniforms(16).u32(size, condOffset);
      const buffers = [buffer(uncond), buffer(cond), sums.buffer];
      this.#dispatch('moments', momentsSource, uniforms, buffers, pictures * WORKGROUP);
      const values = await this.read(sums);
      return Array.from({ length: pictures }, (_, n) => {
        const [c, u, cc, cu, uu] = values.subarray(5 * n);
        return { count: size, c, u, cc, cu, uu };
      });
    } finally {
      sums.dispose();
    }
  }

  guide(out: DeviceTensor, predictions: TwoPredictions, weights: readonly GuidanceWeights[]): void {
    const { uncond, cond, condOffset, count } = predictions;
    const given = this.upload(Float32Array.from(weights.flatMap(({ c, u }) => [c, u])), [2 * weights.length]);
    const uniforms = new Uniforms(16).u32(count, count / weights.length, condOffset);
    this.#dispatch('guide', guideSource, uniforms, [buffer(uncond), buffer(cond), given.buffer, buffer(out)], count);
    given.dispose();
  }

  step({ step, state, uncond, cond, condOffset, guidance, noise, nextInputScale, blend }: StepArguments): void {
    const count = elements(state.x.dims);
    const { history, historyLength } = state;
    if (historyLength > LONGEST_HISTORY) {
      throw new TypeError(`The step kernel keeps at most ${LONGEST_HISTORY} earlier steps.`);
    }
    if (step.noise && !noise) {
      throw new TypeError('This step adds noise, and none was given.');
    }
    const four = (weights: number[]) => [0, 1, 2, 3].map((k) => weights[k] ?? 0);
    const uniforms = new Uniforms(128)
      .u32(count, state.copies, condOffset, uncond ? 1 : 0)
      .f32(guidance, step.denoised.x, step.denoised.model, step.next.x)
      .f32(step.next.model, step.remember.x, step.remember.model, nextInputScale)
      .f32(...four(step.next.history))
      .u32(historyLength, state.historyHead, step.shift && history ? 1 : 0, blend && state.blend ? 1 : 0)
      .f32(blend?.alpha ?? 0, blend?.sigma ?? 0, step.noise?.scale ?? 0, step.next.negative)
      .f32(...four(step.remember.history), step.remember.negative);
    // Unused bindings get a buffer that the kernel does not touch.
    const idle = this.empty([1]);
    const idleRead = this.empty([1]);
    this.#dispatch(
      'step',
      stepSource,
      uniforms,
      [
        buffer(state.x),
        buffer(uncond ?? cond),
        buffer(cond),
        history ? buffer(history) : idle.buffer,
        buffer(state.denoised),
        buffer(state.input),
        state.blend ? buffer(state.blend) : idleRead.buffer,
        noise ? buffer(noise) : idleRead.buffer,
      ],
      count,
    );
    idle.dispose();
    idleRead.dispose();
    if (step.shift && history) {
      state.historyHead = (state.historyHead + historyLength - 1) % historyLength;
    }
  }

  snapshots(): Snapshots {
    return new GpuSnapshots(this.device);
  }

  async toPixels(decoded: DeviceTensor, latents: DeviceTensor): Promise<PixelImage[]> {
    const [batch, planes, height, width] = decoded.dims;
    const plane = height * width;
    const count = batch * plane;
    // After the pixels: the number of non-finite values, and whether any value is non-zero.
    const out = this.#tensor([count + 2], 'float32');
    try {
      const length = elements(latents.dims);
      this.#dispatch(
        'finite',
        finiteSource,
        new Uniforms(16).u32(length, count),
        [buffer(latents), out.buffer],
        length,
      );
      this.#dispatch(
        'pixels',
        pixelsSource,
        new Uniforms(16).u32(plane, count, planes),
        [buffer(decoded), out.buffer],
        count,
      );
      const bytes = await this.#readBuffer(out.buffer, (count + 2) * 4);
      const [infinite, isThere] = new Uint32Array(bytes, count * 4, 2);
      if (infinite > 0) {
        throw new StudioError('result_invalid', NOT_FINITE);
      }
      if (isThere === 0) {
        throw new StudioError('result_invalid', EMPTY, { retry: 'same' });
      }
      return Array.from({ length: batch }, (_, n) => ({
        width,
        height,
        data: new Uint8ClampedArray(bytes.slice(n * plane * 4, (n + 1) * plane * 4)),
      }));
    } finally {
      out.dispose();
    }
  }

  preview(latents: DeviceTensor, colours: PreviewColours, canvas: OffscreenCanvas): void {
    const [, channels, height, width] = latents.dims;
    if (channels > MAX_PREVIEW_CHANNELS) {
      return;
    }
    const context = canvas.getContext('webgpu');
    if (!context) {
      return;
    }
    const format = navigator.gpu.getPreferredCanvasFormat();
    if (!this.#canvases.has(canvas) || canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      context.configure({ device: this.device, format, alphaMode: 'opaque' });
      this.#canvases.add(canvas);
    }
    const uniforms = new Uniforms(16 + (MAX_PREVIEW_CHANNELS + 1) * 16).u32(width, height, channels, 0);
    for (const [r, g, b] of colours) {
      uniforms.f32(r, g, b, 0);
    }
    const { device } = this;
    const module = this.#previewPipeline ? undefined : device.createShaderModule({ code: previewSource });
    this.#previewPipeline ??= device.createRenderPipeline({
      layout: 'auto',
      vertex: { module: module as GPUShaderModule, entryPoint: 'corner' },
      fragment: { module: module as GPUShaderModule, entryPoint: 'colour', targets: [{ format }] },
    });
    const uniformBuffer = this.#uniformBuffer(uniforms);
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginRenderPass({
      colorAttachments: [{ view: context.getCurrentTexture().createView(), loadOp: 'clear', storeOp: 'store' }],
    });
    pass.setPipeline(this.#previewPipeline);
    pass.setBindGroup(
      0,
      device.createBindGroup({
        layout: this.#previewPipeline.getBindGroupLayout(0),
        entries: [
          { binding: 0, resource: { buffer: uniformBuffer } },
          { binding: 1, resource: { buffer: buffer(latents) } },
        ],
      }),
    );
    pass.draw(3);
    pass.end();
    device.queue.submit([encoder.finish()]);
    uniformBuffer.destroy();
  }

  async settle(): Promise<void> {
    await this.guard(this.device.queue.onSubmittedWorkDone());
  }

  #tensor(dims: readonly number[], dataType: ElementType): GpuTensor {
    // ONNX Runtime pads its own buffers to 16 bytes and expects the same of ours.
    const size = Math.ceil((elements(dims) * (dataType === 'float16' ? 2 : 4)) / 16) * 16;
    return new GpuTensor(this.ort, this.device.createBuffer({ size, usage: USAGE }), dims, dataType);
  }

  #uniformBuffer(uniforms: Uniforms): GPUBuffer {
    const result = this.device.createBuffer({
      size: uniforms.bytes.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    this.device.queue.writeBuffer(result, 0, uniforms.bytes);
    return result;
  }

  #dispatch(name: string, source: string, uniforms: Uniforms, buffers: GPUBuffer[], count: number): void {
    const { device } = this;
    let pipeline = this.#pipelines.get(name);
    if (!pipeline) {
      pipeline = device.createComputePipeline({
        label: name,
        layout: 'auto',
        compute: { module: device.createShaderModule({ label: name, code: source }), entryPoint: 'main' },
      });
      this.#pipelines.set(name, pipeline);
    }
    const uniformBuffer = this.#uniformBuffer(uniforms);
    const group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [uniformBuffer, ...buffers].map((resource, binding) => ({ binding, resource: { buffer: resource } })),
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    const groups = Math.ceil(count / WORKGROUP);
    const columns = Math.min(groups, MAX_GROUPS);
    pass.dispatchWorkgroups(columns, Math.ceil(groups / columns));
    pass.end();
    device.queue.submit([encoder.finish()]);
    // Destroying after submit is fine: the queue keeps what it needs.
    uniformBuffer.destroy();
  }

  async #readBuffer(source: GPUBuffer, bytes: number): Promise<ArrayBuffer> {
    const staging = this.device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    try {
      const encoder = this.device.createCommandEncoder();
      encoder.copyBufferToBuffer(source, 0, staging, 0, bytes);
      this.device.queue.submit([encoder.finish()]);
      await this.guard(staging.mapAsync(GPUMapMode.READ));
      return staging.getMappedRange().slice(0);
    } finally {
      staging.destroy();
    }
  }
}

class GpuSnapshots implements Snapshots {
  #staging: GPUBuffer | null = null;

  constructor(readonly device: GPUDevice) {}

  take(tensors: readonly DeviceTensor[], taken: (contents: Float32Array<ArrayBuffer>[]) => void): boolean {
    if (this.#staging) {
      return false;
    }
    const lengths = tensors.map(({ dims }) => elements(dims));
    const size = 4 * lengths.reduce((sum, length) => sum + length, 0);
    const staging = this.device.createBuffer({
      label: SNAPSHOT,
      size,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    this.#staging = staging;
    const encoder = this.device.createCommandEncoder();
    let at = 0;
    for (const [n, tensor] of tensors.entries()) {
      encoder.copyBufferToBuffer(buffer(tensor), 0, staging, at, lengths[n] * 4);
      at += lengths[n] * 4;
    }
    // The queue runs in order, so this copies the state now, whatever is submitted next.
    this.device.queue.submit([encoder.finish()]);
    staging.mapAsync(GPUMapMode.READ).then(
      () => {
        const all = new Float32Array(staging.getMappedRange().slice(0));
        this.#drop(staging);
        let from = 0;
        taken(lengths.map((length) => all.slice(from, (from += length))));
      },
      // Either disposed, or the device is lost, which reaches whoever waits for the device.
      () => this.#drop(staging),
    );
    return true;
  }

  dispose(): void {
    if (this.#staging) {
      this.#drop(this.#staging);
    }
  }

  #drop(staging: GPUBuffer): void {
    staging.destroy();
    if (this.#staging === staging) {
      this.#staging = null;
    }
  }
}

function buffer(tensor: DeviceTensor): GPUBuffer {
  return (tensor as GpuTensor).buffer;
}
