/** Speaking text with a text-to-speech model. */
import type { Sound } from './media.ts';
import type { ModelLoading } from './text_service.ts';

export interface SpeechRequest {
  /** Ref of a voice in the library or in an opened folder. */
  model: string;
  text: string;
  /** One of the model's voices, by name; models with a single voice refuse a name. Undefined = its first. */
  voice?: string | undefined;
  /** 1 = as trained; undefined = 1. Models with a single speed refuse any other. */
  speed?: number | undefined;
}

/** What was said. */
export interface Speech extends Sound {
  /** Characters left out because the model has no sound for them, each once; empty if it said everything. */
  unspoken: string;
}

/** The speech service as a chunk gets it: bound to its step's voice, with loading reported as the job's progress. */
export interface StepSpeech {
  /** @throws StudioError like {@link SpeechService.speak} */
  speak(request: Omit<SpeechRequest, 'model'>): Promise<Speech>;
}

export interface SpeechService {
  /**
   * Turns text into sound: one channel at the model's own rate.
   * @throws StudioError like `TextService.generate`, except `context_too_long`
   */
  speak(request: SpeechRequest, signal: AbortSignal, onLoading?: (loading: ModelLoading) => void): Promise<Speech>;
}
