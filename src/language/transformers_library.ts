/**
 * transformers.js on our runtime and our files. It gets the ONNX Runtime that is already loaded instead of its own copy, reads files from
 * opened checkpoints, and has no access to the network.
 */
import type * as Transformers from '@huggingface/transformers';
import type { OrtModule } from '../engine/runtime.ts';

export type TransformersModule = typeof Transformers;

/** transformers.js looks for a runtime under this name before using its own. */
const RUNTIME = Symbol.for('onnxruntime');

/** The bytes of a file; null if there is none. */
export type ReadFile = (path: string) => Promise<Uint8Array<ArrayBuffer> | null>;

export class TransformersLibrary {
  readonly #opened = new Map<string, ReadFile>();
  #count = 0;

  private constructor(readonly module: TransformersModule) {}

  /** Once per worker, since the library's settings are global. */
  static async load(ort: OrtModule): Promise<TransformersLibrary> {
    const scope = globalThis as { [RUNTIME]?: OrtModule };
    scope[RUNTIME] = ort;
    const paths = ort.env.wasm.wasmPaths;
    const module = await import('@huggingface/transformers');
    // Otherwise it would point the runtime at a CDN.
    ort.env.wasm.wasmPaths = paths;
    const library = new TransformersLibrary(module);
    Object.assign(module.env, {
      logLevel: module.LogLevel.ERROR,
      allowRemoteModels: false,
      // Otherwise it refuses everything; anything it looks for outside the cache does not exist.
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
   * Registers files under a name that transformers.js can open.
   * @param use gets the name, which is forgotten afterwards
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
    // It first asks for the path in its folder of models and then, in Node, for the hub's URL.
    const [, name, path] = /\/(checkpoint-\d+)\/(?:resolve\/main\/)?(.+)$/.exec(request) ?? [];
    const bytes = await this.#opened.get(name)?.(path);
    return bytes ? new Response(bytes) : undefined;
  }
}
