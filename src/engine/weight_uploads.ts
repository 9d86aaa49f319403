/**
 * Uploads weights to the GPU while ONNX Runtime creates a session. By itself the runtime creates a mapped staging buffer per weight. That
 * is fresh memory in the browser's GPU process, which takes longer to touch than to copy. `writeBuffer` reuses the browser's own staging
 * memory, so the runtime is given stand-ins for its staging buffers, in ordinary memory, and their copies become writes (see
 * `wasm/post-webgpu.js` of onnxruntime-web 1.30.0; e2e/engine.spec.ts fails if that changes).
 */
import { release } from '../weights/weight_source.ts';

/** Larger weights are left to the runtime, since their stand-ins would be as large. */
const LARGEST = 64 * 2 ** 20;
/** Bytes per write. At this size the GPU process touches no more fresh memory than the weights take (bench/README.md). */
const WRITE = 4 * 2 ** 20;
/** The runtime rounds a weight's length up to this. */
const ROUNDED = 16;

/**
 * Handles one session at a time.
 * @param make may also use the device for anything else
 * @returns the result of `make`
 */
export async function withQuickUploads<T>(device: GPUDevice, make: () => Promise<T>): Promise<T> {
  // Both may be wrapped by ledger.ts, so they are restored as they were.
  const before = (['createBuffer', 'createCommandEncoder'] as const).map(
    (name) => [name, Object.getOwnPropertyDescriptor(device, name)] as const,
  );
  const createBuffer = device.createBuffer.bind(device);
  const createCommandEncoder = device.createCommandEncoder.bind(device);
  let memory = new ArrayBuffer(0);
  /** The stand-in that was filled and is about to be copied; the runtime does both in one go. */
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

/** The parts of a mapped buffer that the runtime uses. */
interface StandIn {
  getMappedRange(): ArrayBuffer;
  unmap(): void;
  destroy(): void;
}

type Copy = (from: GPUBuffer, begin: number, to: GPUBuffer, at: number, length: number) => void;

/** Whether the runtime's JavaScript creates the buffer. Its native code labels its staging buffers, and fills them later. */
function isForWeight({ mappedAtCreation, usage, size, ...rest }: GPUBufferDescriptor): boolean {
  const isStaging = mappedAtCreation === true && usage === (GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC);
  return isStaging && !('label' in rest) && size >= ROUNDED && size <= LARGEST;
}

function write(device: GPUDevice, memory: ArrayBuffer, from: number, to: GPUBuffer, at: number, length: number): void {
  for (let done = 0; done < length; done += WRITE) {
    device.queue.writeBuffer(to, at + done, memory, from + done, Math.min(WRITE, length - done));
  }
}
