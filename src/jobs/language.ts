/** The page's client for the language engine. Its worker is created on first use, and again after it ended. */
import * as Comlink from 'comlink';
import type { LanguageSummary } from '../core/language.ts';
import type { Speech, SpeechRequest, SpeechService } from '../core/speech_service.ts';
import type { ModelLoading, TextDelta, TextRequest, TextResult, TextService } from '../core/text_service.ts';
import type { LanguageApi, LanguageOptions } from '../language/language_api.ts';
import { LanguageClient } from '../language/language_client.ts';
import type { CheckpointSource } from '../weights/checkpoint_source.ts';
import type { LanguageConnection } from '../language/language_api.ts';
import { folderSource } from './folder_source.ts';
import type { FolderFile } from './folder_source.ts';
import { WorkerLink } from './worker_link.ts';
import type { WorkerLike } from './worker_link.ts';

/** Loading the runtime and a first computation, in milliseconds. */
const START_WITHIN = 5 * 60_000;

/**
 * Requests here do not wait for the GPU, so on WebGPU nothing else may run meanwhile. Within jobs, the worker holding the GPU asks over a
 * connection of its own.
 */
export class LanguageEngines implements TextService, SpeechService {
  /** How the next engine is started. */
  options: LanguageOptions = { backend: 'auto' };
  /** Called before a model of this many bytes is brought to the device for whoever asks here. */
  makeRoom: (bytes: number) => Promise<void> = () => Promise.resolve();
  /** Called when a folder was opened. */
  onOpened: (ref: string, source: CheckpointSource) => void = () => undefined;
  readonly #make: () => WorkerLike;
  readonly #client = new LanguageClient({
    connect: () => this.connection(),
    connectIfAlive: () => this.connectionIfAlive(),
    makeRoom: (bytes) => this.makeRoom(bytes),
  });
  /** Opened folders, which every new worker must learn of. */
  readonly #known = new Map<string, CheckpointSource>();
  #engine: { link: WorkerLink<LanguageApi>; started: Promise<unknown> } | null = null;

  constructor(make: () => WorkerLike) {
    this.#make = make;
  }

  /** A port over which whoever gets it can ask for text and speech, such as the generator with a `LanguageClient`. */
  async connection(): Promise<LanguageConnection> {
    const link = await this.#started();
    const { port1, port2 } = new MessageChannel();
    try {
      await link.call('connect', Comlink.transfer(port1, [port1]));
    } catch (error) {
      if (link.failure) {
        // It ended a moment before; the next one has not.
        return this.connection();
      }
      throw error;
    }
    return { port: port2, lock: link.lock };
  }

  /** As {@link connection}, but null where no engine runs. */
  async connectionIfAlive(): Promise<LanguageConnection | null> {
    return this.#engine && !this.#engine.link.failure ? this.connection() : null;
  }

  /** What a checkpoint is, from its small files alone. @throws StudioError `checkpoint_…` for what neither writes nor speaks */
  async look(source: CheckpointSource): Promise<LanguageSummary> {
    return (await this.#started()).call('look', source);
  }

  /** Opens a folder; its summary's ref can be asked for from now on. */
  async openFolder(files: FolderFile[]): Promise<LanguageSummary> {
    const source = folderSource(files);
    const summary = await this.look(source);
    await this.know(summary.ref, source);
    this.onOpened(summary.ref, source);
    return summary;
  }

  /** This ref is found there from now on, as those of the library always are. Starts nothing. */
  async know(ref: string, source: CheckpointSource): Promise<void> {
    this.#known.set(ref, source);
    if (this.#engine && !this.#engine.link.failure) {
      await (await this.#started()).call('know', ref, source);
    }
  }

  generate(
    request: TextRequest,
    onDelta: (delta: TextDelta) => void,
    signal: AbortSignal = new AbortController().signal,
    onLoading?: (loading: ModelLoading) => void,
  ): Promise<TextResult> {
    return this.#client.generate(request, onDelta, signal, onLoading);
  }

  speak(
    request: SpeechRequest,
    signal: AbortSignal = new AbortController().signal,
    onLoading?: (loading: ModelLoading) => void,
  ): Promise<Speech> {
    return this.#client.speak(request, signal, onLoading);
  }

  /** Frees the memory that the model on the device takes; the next request loads it again. */
  release(): Promise<void> {
    return this.#client.release(0);
  }

  /** Ends its worker, where there is one. */
  end(): void {
    this.#engine?.link.terminate();
  }

  async #started(): Promise<WorkerLink<LanguageApi>> {
    if (!this.#engine || this.#engine.link.failure) {
      const link = new WorkerLink<LanguageApi>('The language engine', this.#make(), {
        calls: { start: () => START_WITHIN },
      });
      this.#engine = { link, started: this.#start(link) };
    }
    const { link, started } = this.#engine;
    await started;
    return link;
  }

  async #start(link: WorkerLink<LanguageApi>): Promise<void> {
    try {
      await link.call('start', this.options);
      for (const [ref, source] of this.#known) {
        await link.call('know', ref, source);
      }
    } catch (error) {
      link.terminate();
      throw error;
    }
  }
}
