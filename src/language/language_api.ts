/** The interface between the page, executors and the language worker. */
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
  runtimeFiles?: string;
}

/** The owner of the language engine, one per language worker, as called by the page. Requests to models use separate ports. */
export interface LanguageApi {
  /** Must be the first call. */
  start(options: LanguageOptions): Promise<{ backend: 'webgpu' | 'wasm'; note: string | null }>;
  /** Takes {@link LanguageMessage}s on this port from now on. */
  connect(port: MessagePort): Promise<void>;
  /** What a checkpoint is, from its small files alone. */
  look(source: CheckpointSource): Promise<LanguageSummary>;
  /** Registers a folder under this ref, as stored checkpoints always are under theirs. Reads nothing. */
  know(ref: string, source: CheckpointSource): Promise<void>;
}

/** A request carries its response port, so nobody has to track who asked what. */
export type LanguageMessage = (
  | { type: 'generate'; request: TextRequest }
  | { type: 'speak'; request: SpeechRequest }
  /** Frees the model on the device if it takes more than `fits` bytes; the next request loads it again. */
  | { type: 'release'; fits: number }
) & { reply: MessagePort };

/** Responses on that port: any number of the first three, then one of the others. */
export type LanguageAnswer =
  | { type: 'delta'; delta: TextDelta }
  | { type: 'loading'; loading: ModelLoading }
  /** A model of this size is about to be loaded, once the requester confirms that there is room. */
  | { type: 'room'; bytes: number }
  | { type: 'done'; result: TextResult | Speech | null }
  | { type: 'failed'; error: StudioErrorData };

/** Messages from the requester: it no longer wants an answer, or there is room now. */
export interface LanguageWord {
  type: 'cancel' | 'ready';
}

/** A port of the language worker, and the Web Lock it holds while alive (null without Web Locks). */
export interface LanguageConnection {
  port: MessagePort;
  lock: string | null;
}
