/** What page, executor and language worker say to one another. */
import type { LanguageSummary } from '../core/language.ts';
import type { Speech, SpeechRequest } from '../core/speech_service.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { ModelLoading, TextDelta, TextRequest, TextResult } from '../core/text_service.ts';
import type { CheckpointSource } from '../weights/checkpoint_source.ts';

/** How the engine is started. */
export interface LanguageOptions {
  /** `auto` takes WebGPU where a hardware adapter exists, else the processor. */
  backend: 'auto' | 'webgpu' | 'wasm';
  /** As of the graph engine's `StartOptions`. */
  threads?: string | null;
}

/** The owner of the language engine, one per language worker, as the page calls it. Models are asked over a port of their own. */
export interface LanguageApi {
  /** Must be the first call. */
  start(options: LanguageOptions): Promise<{ backend: 'webgpu' | 'wasm'; note: string | null }>;
  /** Takes {@link LanguageMessage}s on this port from now on. */
  connect(port: MessagePort): Promise<void>;
  /** What a checkpoint is, from its small files alone. */
  look(source: CheckpointSource): Promise<LanguageSummary>;
  /** This ref is found there from now on, as stored ones always are by theirs. Nothing is read. */
  know(ref: string, source: CheckpointSource): Promise<void>;
}

/** A request carries the port that it is answered on, so that nobody has to keep account of who asked what. */
export type LanguageMessage = (
  | { type: 'generate'; request: TextRequest }
  | { type: 'speak'; request: SpeechRequest }
  /** Frees what the model on the device holds, unless that is no more than `fits` bytes; the next request loads it again. */
  | { type: 'release'; fits: number }
) & { reply: MessagePort };

/** What comes back on that port: any number of the first three, then one of the others. */
export type LanguageAnswer =
  | { type: 'delta'; delta: TextDelta }
  | { type: 'loading'; loading: ModelLoading }
  /** A model that takes this much is about to be brought to the device, once the asking side says that there is room. */
  | { type: 'room'; bytes: number }
  | { type: 'done'; result: TextResult | Speech | null }
  | { type: 'failed'; error: StudioErrorData };

/** What the asking side says on it: that it wants no answer any more, or, when it was asked for room, that there is some. */
export interface LanguageWord {
  type: 'cancel' | 'ready';
}

/** A port of the language worker, and the Web Lock that it holds while it lives (null where there are none). */
export interface LanguageConnection {
  port: MessagePort;
  lock: string | null;
}
