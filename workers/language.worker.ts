/** The language worker: language models and voices on a device of their own. Created on first use. */
import { StudioError } from '../src/core/errors.ts';
import type { LanguageSummary } from '../src/core/language.ts';
import { Engine } from '../src/engine/engine.ts';
import type { LanguageApi, LanguageOptions } from '../src/language/language_api.ts';
import { LanguageEngine } from '../src/language/language_engine.ts';
import { languageRuntime } from '../src/language/language_runtime.ts';
import { TransformersLibrary } from '../src/language/transformers_library.ts';
import type { CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { resign, serve } from './connection.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';
import { filesOf } from './source_files.ts';

class LanguageWorker implements LanguageApi {
  #engine: LanguageEngine | undefined;
  /** Opened folders, by ref. */
  readonly #known = new Map<string, CheckpointSource>();

  async start({
    backend,
    threads = null,
    runtimeFiles,
  }: LanguageOptions): Promise<{ backend: 'webgpu' | 'wasm'; note: string | null }> {
    const engine = await Engine.start({ backend, precision: 'auto', countLaunches: false, threads, runtimeFiles });
    void engine.lost.then((error) => {
      resign(error, self);
    });
    const library = await TransformersLibrary.load(engine.runtime.ort);
    this.#engine = new LanguageEngine(
      library,
      languageRuntime(engine),
      (ref) => this.#files(ref),
      (error) => {
        resign(error, self);
      },
    );
    const { backend: chosen, note } = engine.report;
    return { backend: chosen, note };
  }

  connect(port: MessagePort): Promise<void> {
    this.#started.serve(port);
    return Promise.resolve();
  }

  async look(source: CheckpointSource): Promise<LanguageSummary> {
    return this.#started.look(await filesOf(source));
  }

  know(ref: string, source: CheckpointSource): Promise<void> {
    this.#known.set(ref, source);
    return Promise.resolve();
  }

  #files(ref: string): Promise<CheckpointFiles> {
    return filesOf(this.#known.get(ref) ?? { kind: 'stored', ref });
  }

  get #started(): LanguageEngine {
    if (!this.#engine) {
      throw new StudioError('internal', 'The language engine was not started; reload the page.', { retry: 'same' });
    }
    return this.#engine;
  }
}

await serve(new LanguageWorker(), self);
