/** What language models run on: the engine's ONNX Runtime and device, as transformers.js wants them. */
import type * as Ort from 'onnxruntime-web';
import type { Engine } from '../engine/engine.ts';
import type { OrtModule } from '../engine/runtime.ts';
import { withQuickUploads } from '../engine/weight_uploads.ts';
import type { External } from '../graphs/graph.ts';
import { mount } from '../weights/virtual_file.ts';
import type { LanguageDevice } from './language_checkpoint.ts';

/** Weights as a session takes them, until it is made. */
export interface MountedWeights {
  files: Ort.InferenceSession.SessionOptions['externalData'];
  close(): void;
}

export interface LanguageRuntime {
  readonly ort: OrtModule;
  readonly device: LanguageDevice;
  /** @param cpuNodes names of nodes that run on the processor whatever the device */
  providers(cpuNodes: string[]): Ort.InferenceSession.ExecutionProviderConfig[];
  /** @param onBytes called with the length of each range that is taken to the device */
  mount(externals: External[], blobs: Map<string, Blob>, onBytes: (bytes: number) => void): Promise<MountedWeights>;
  /** Makes sessions. */
  create<T>(make: () => Promise<T>): Promise<T>;
  /** What `work` resolves to; turns the engine's failures into StudioErrors, a lost device among them. */
  guard<T>(work: Promise<T>): Promise<T>;
}

export function languageRuntime(engine: Engine): LanguageRuntime {
  const { runtime, device } = engine;
  return {
    ort: runtime.ort,
    device: { backend: engine.provider, hasF16: device?.features.has('shader-f16') ?? false },
    providers: (cpuNodes) => [
      device
        ? {
            name: 'webgpu',
            device,
            validationMode: 'disabled',
            ...(cpuNodes.length > 0 && { forceCpuNodeNames: cpuNodes }),
          }
        : 'wasm',
    ],
    mount: (externals, blobs, onBytes) => Promise.resolve(mount(externals, blobs, runtime.build, onBytes)),
    create: (make) => runtime.guard(device ? withQuickUploads(device, make) : make()),
    guard: (work) => runtime.guard(work),
  };
}
