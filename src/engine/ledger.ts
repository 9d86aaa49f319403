/**
 * Counts what the engine holds: live GPU buffers, buffers mapped for reading, and the size of ONNX Runtime's heap. Tests and benchmarks
 * read it; a leak, or a read-back inside the sampling loop, shows up as a number.
 */
import type { LedgerReport } from '../core/job.ts';
import { SNAPSHOT } from './arithmetic.ts';
import { WEIGHTS } from './block_memory.ts';
import { Uploads } from './block_weights.ts';

export class Ledger {
  /** Of the weights of blocks. */
  readonly uploads = new Uploads();
  #created = 0;
  #live = 0;
  #bytes = 0;
  #weightBytes = 0;
  #mostWeightBytes = 0;
  #readMaps = 0;
  #snapshotMaps = 0;
  #launches = 0;
  #submits = 0;
  #passes = 0;
  #clears = 0;
  #networkRuns = 0;
  #firstRunAt: number | null = null;
  #lastRunAt: number | null = null;
  #boundBytes = 0;
  readonly #memories = new Set<WebAssembly.Memory>();

  /**
   * Watches every buffer created on `device`, including ONNX Runtime's, since the device is ours.
   * @param dispatches also counts launches, what else the device is told, and bound bytes; for measurements only, as it slows every dispatch
   */
  watch(device: GPUDevice, dispatches: boolean): void {
    const createBuffer = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      const buffer = createBuffer(descriptor);
      this.#created += 1;
      this.#live += 1;
      this.#bytes += descriptor.size;
      const weightBytes = descriptor.label === WEIGHTS ? descriptor.size : 0;
      this.#weightBytes += weightBytes;
      this.#mostWeightBytes = Math.max(this.#mostWeightBytes, this.#weightBytes);
      const destroy = buffer.destroy.bind(buffer);
      let alive = true;
      buffer.destroy = () => {
        if (alive) {
          alive = false;
          this.#live -= 1;
          this.#bytes -= descriptor.size;
          this.#weightBytes -= weightBytes;
        }
        return destroy();
      };
      const mapAsync = buffer.mapAsync.bind(buffer);
      buffer.mapAsync = (mode, offset, size) => {
        if (descriptor.label === SNAPSHOT) {
          this.#snapshotMaps += 1;
        } else if ((mode & GPUMapMode.READ) !== 0) {
          this.#readMaps += 1;
        }
        return mapAsync(mode, offset, size);
      };
      return buffer;
    };
    if (dispatches) {
      this.#watchDispatches(device);
    }
  }

  #watchDispatches(device: GPUDevice): void {
    const groupBytes = new WeakMap<GPUBindGroup, number>();
    const createBindGroup = device.createBindGroup.bind(device);
    device.createBindGroup = (descriptor) => {
      const group = createBindGroup(descriptor);
      let bytes = 0;
      for (const { resource } of descriptor.entries) {
        if ('buffer' in resource) {
          bytes += resource.size ?? resource.buffer.size;
        }
      }
      groupBytes.set(group, bytes);
      return group;
    };
    const { queue } = device;
    const submit = queue.submit.bind(queue);
    queue.submit = (commands) => {
      this.#submits += 1;
      return submit(commands);
    };
    const createCommandEncoder = device.createCommandEncoder.bind(device);
    device.createCommandEncoder = (descriptor) => {
      const encoder = createCommandEncoder(descriptor);
      const clearBuffer = encoder.clearBuffer.bind(encoder);
      encoder.clearBuffer = (buffer, offset, size) => {
        this.#clears += 1;
        return clearBuffer(buffer, offset, size);
      };
      const beginComputePass = encoder.beginComputePass.bind(encoder);
      encoder.beginComputePass = (passDescriptor) => {
        this.#passes += 1;
        const pass = beginComputePass(passDescriptor);
        let bound = 0;
        const setBindGroup = pass.setBindGroup.bind(pass) as (index: number, group: GPUBindGroup | null) => undefined;
        pass.setBindGroup = ((index: number, group: GPUBindGroup | null) => {
          bound = group ? (groupBytes.get(group) ?? 0) : 0;
          setBindGroup(index, group);
        }) as GPUComputePassEncoder['setBindGroup'];
        const dispatch = pass.dispatchWorkgroups.bind(pass);
        pass.dispatchWorkgroups = (x, y, z) => {
          this.#launches += 1;
          this.#boundBytes += bound;
          return dispatch(x, y, z);
        };
        return pass;
      };
      return encoder;
    };
  }

  /** Remembers every shared memory created from now on: that is ONNX Runtime's heap, which it does not expose. */
  watchMemories(): void {
    const memories = this.#memories;
    const Original = WebAssembly.Memory;
    WebAssembly.Memory = class extends Original {
      constructor(descriptor: WebAssembly.MemoryDescriptor) {
        super(descriptor);
        memories.add(this);
      }
    };
  }

  /** Counts `run` as one of a network. */
  async count(run: Promise<void>): Promise<void> {
    this.#networkRuns += 1;
    this.#firstRunAt ??= now();
    await run;
    this.#lastRunAt = now();
  }

  report(): LedgerReport {
    const [firstRunAt, lastRunAt] = [this.#firstRunAt, this.#lastRunAt];
    this.#firstRunAt = this.#lastRunAt = null;
    return {
      networkRuns: this.#networkRuns,
      firstRunAt,
      lastRunAt,
      createdBuffers: this.#created,
      liveBuffers: this.#live,
      liveBytes: this.#bytes,
      uploadedBytes: this.uploads.bytes,
      uploadMs: this.uploads.ms,
      waitedMs: this.uploads.waitedMs,
      weightBytes: this.#weightBytes,
      mostWeightBytes: this.#mostWeightBytes,
      readMaps: this.#readMaps,
      snapshotMaps: this.#snapshotMaps,
      launches: this.#launches,
      submits: this.#submits,
      passes: this.#passes,
      clears: this.#clears,
      boundBytes: this.#boundBytes,
      wasmHeapBytes: [...this.#memories].reduce((sum, memory) => sum + memory.buffer.byteLength, 0),
    };
  }
}

/** Milliseconds since 1970, finer than the date's. */
function now(): number {
  return performance.timeOrigin + performance.now();
}
