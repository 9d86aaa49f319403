/** The engine's ONNX Runtime and device in the form transformers.js expects. */
import type * as Ort from 'onnxruntime-web';
import type { Engine } from '../engine/engine.ts';
import type { OrtModule } from '../engine/runtime.ts';
import { withQuickUploads } from '../engine/weight_uploads.ts';
import type { External } from '../graphs/graph.ts';
import { mount } from '../weights/virtual_file.ts';
import type { LanguageDevice } from './language_checkpoint.ts';

/** Weights for a session, until it is created. */
export interface MountedWeights {
  files: Ort.InferenceSession.SessionOptions['externalData'];
  close(): void;
}

export interface LanguageRuntime {
  readonly ort: OrtModule;
  readonly device: LanguageDevice;
  /** @param cpuNodes names of nodes that run on the processor on any device */
  providers(cpuNodes: string[]): Ort.InferenceSession.ExecutionProviderConfig[];
  /** @param onBytes called with the length of each range loaded onto the device */
  mount(externals: External[], blobs: Map<string, Blob>, onBytes: (bytes: number) => void): Promise<MountedWeights>;
  /** Makes sessions. */
  create<T>(make: () => Promise<T>): Promise<T>;
  /** Runs `work`, turning the engine's failures, such as a lost device, into StudioErrors. */
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
