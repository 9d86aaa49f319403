/**
 * How weights go from memory to the GPU while ONNX Runtime makes a session. By itself it makes a mapped staging buffer for each, which is
 * fresh memory in the browser's GPU process, and to touch that takes longer than the copy. `writeBuffer` uses the browser's own staging
 * memory again and again. So meanwhile the runtime is given stand-ins for those buffers, which are ordinary memory, and what it copies from
 * them is written (compare `wasm/post-webgpu.js` of onnxruntime-web 1.30.0; e2e/engine.spec.ts notices when it does so otherwise).
 */
import { release } from '../weights/weight_source.ts';

/** Larger weights are left to the runtime: what stands in for their buffers would be as large. */
const LARGEST = 64 * 2 ** 20;
/** Bytes of one write. With these the GPU process touches no more fresh memory than the weights take (bench/README.md). */
const WRITE = 4 * 2 ** 20;
/** The runtime rounds a weight's length up to this. */
const ROUNDED = 16;

/**
 * For one session at a time.
 * @param make may use the device for anything else as well
 * @returns what `make` resolves to; rejects with what it rejects with
 */
export async function withQuickUploads<T>(device: GPUDevice, make: () => Promise<T>): Promise<T> {
  // Both may be watched (ledger.ts), and are put back as they were.
  const before = (['createBuffer', 'createCommandEncoder'] as const).map(
    (name) => [name, Object.getOwnPropertyDescriptor(device, name)] as const,
  );
  const createBuffer = device.createBuffer.bind(device);
  const createCommandEncoder = device.createCommandEncoder.bind(device);
  let memory = new ArrayBuffer(0);
  /** The one that was filled and is about to be copied, all of which the runtime does at once. */
  let filled: StandIn | null = null;

  device.createBuffer = (descriptor) => {
    if (!isForWeight(descriptor)) {
      return createBuffer(descriptor);
    }
    if (memory.byteLength < descriptor.size) {
      release(memory);
      memory = new ArrayBuffer(descriptor.size);
    }
    new Uint8Array(memory, descriptor.size - ROUNDED, ROUNDED).fill(0);
    const standIn: StandIn = {
      getMappedRange: () => memory,
      unmap: () => (filled = standIn),
      destroy: () => undefined,
    };
    return standIn as unknown as GPUBuffer;
  };
  device.createCommandEncoder = (descriptor) => {
    const encoder = createCommandEncoder(descriptor);
    if (filled) {
      const source: unknown = filled;
      filled = null;
      const copy = encoder.copyBufferToBuffer.bind(encoder) as Copy;
      const writeOrCopy: Copy = (from, begin, to, at, length) => {
        if (from === source) {
          write(device, memory, begin, to, at, length);
        } else {
          copy(from, begin, to, at, length);
        }
      };
      encoder.copyBufferToBuffer = writeOrCopy as GPUCommandEncoder['copyBufferToBuffer'];
    }
    return encoder;
  };
  try {
    return await make();
  } finally {
    release(memory);
    for (const [name, own] of before) {
      Reflect.deleteProperty(device, name);
      if (own) {
        Object.defineProperty(device, name, own);
      }
    }
  }
}

/** Of a mapped buffer, what the runtime uses. */
interface StandIn {
  getMappedRange(): ArrayBuffer;
  unmap(): void;
  destroy(): void;
}

type Copy = (from: GPUBuffer, begin: number, to: GPUBuffer, at: number, length: number) => void;

/** Whether the runtime's JavaScript part asks for it. Its native part labels the staging buffers that it makes, and fills them later. */
function isForWeight({ mappedAtCreation, usage, size, ...rest }: GPUBufferDescriptor): boolean {
  const isStaging = mappedAtCreation === true && usage === (GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC);
  return isStaging && !('label' in rest) && size >= ROUNDED && size <= LARGEST;
}

function write(device: GPUDevice, memory: ArrayBuffer, from: number, to: GPUBuffer, at: number, length: number): void {
  for (let done = 0; done < length; done += WRITE) {
    device.queue.writeBuffer(to, at + done, memory, from + done, Math.min(WRITE, length - done));
  }
}
