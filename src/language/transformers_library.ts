/**
 * transformers.js on our runtime and our files. It is handed the ONNX Runtime that is loaded already, so there is one build of it and no
 * copy of its own; its files are answered from opened checkpoints, and it has no way to the network.
 */
import type * as Transformers from '@huggingface/transformers';
import type { OrtModule } from '../engine/runtime.ts';

export type TransformersModule = typeof Transformers;

/** The name under which transformers.js looks for a runtime before it takes its own. */
const RUNTIME = Symbol.for('onnxruntime');

/** The bytes of a file, or null where there is none. */
export type ReadFile = (path: string) => Promise<Uint8Array<ArrayBuffer> | null>;

export class TransformersLibrary {
  readonly #opened = new Map<string, ReadFile>();
  #count = 0;

  private constructor(readonly module: TransformersModule) {}

  /** Once per worker: the library keeps its settings in itself. */
  static async load(ort: OrtModule): Promise<TransformersLibrary> {
    const scope = globalThis as { [RUNTIME]?: OrtModule };
    scope[RUNTIME] = ort;
    const paths = ort.env.wasm.wasmPaths;
    const module = await import('@huggingface/transformers');
    // It would point the runtime at a CDN.
    ort.env.wasm.wasmPaths = paths;
    const library = new TransformersLibrary(module);
    Object.assign(module.env, {
      logLevel: module.LogLevel.ERROR,
      allowRemoteModels: false,
      // Else it refuses everything at once; what it then looks for beside the cache is not there.
      allowLocalModels: true,
      localModelPath: '/models/',
      useFS: false,
      useFSCache: false,
      useBrowserCache: false,
      useWasmCache: false,
      useCustomCache: true,
      customCache: {
        match: (request: string) => library.#match(request),
        put: () => Promise.resolve(),
      },
      fetch: () => Promise.resolve(new Response(null, { status: 404 })),
    });
    return library;
  }

  /**
   * Gives files a name by which transformers.js can be asked to open them.
   * @param use gets that name, which is forgotten when it has ended
   */
  async withFiles<T>(read: ReadFile, use: (name: string) => Promise<T>): Promise<T> {
    this.#count += 1;
    const name = `checkpoint-${this.#count}`;
    this.#opened.set(name, read);
    try {
      return await use(name);
    } finally {
      this.#opened.delete(name);
    }
  }

  async #match(request: string): Promise<Response | undefined> {
    // It asks for the path below its folder of models first, and in Node for the address at the hub afterwards.
    const [, name, path] = /\/(checkpoint-\d+)\/(?:resolve\/main\/)?(.+)$/.exec(request) ?? [];
    const bytes = await this.#opened.get(name)?.(path);
    return bytes ? new Response(bytes) : undefined;
  }
}
