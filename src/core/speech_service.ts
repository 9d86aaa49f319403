/** Speaking text with a text-to-speech model. */
import type { Sound } from './media.ts';
import type { ModelLoading } from './text_service.ts';

export interface SpeechRequest {
  /** Ref of a voice in the library or of an opened folder. */
  model: string;
  text: string;
  /** One of the voices that the model brings, by name; models with a single voice refuse one. Undefined = its first. */
  voice?: string | undefined;
  /** 1 = as it was trained; undefined = 1. Models that know one speed only refuse others. */
  speed?: number | undefined;
}

/** What was said. */
export interface Speech extends Sound {
  /** Characters of the text that the model has no sound for and left out, each once; empty when it said everything. */
  unspoken: string;
}

/** The speech service as a chunk gets it: bound to the voice of its step. Loading is told as the job's progress. */
export interface StepSpeech {
  /** @throws StudioError as {@link SpeechService.speak} */
  speak(request: Omit<SpeechRequest, 'model'>): Promise<Speech>;
}

export interface SpeechService {
  /**
   * Text in, sound out, one channel at the model's own rate.
   * @throws StudioError as `TextService.generate`, but for `context_too_long`
   */
  speak(request: SpeechRequest, signal: AbortSignal, onLoading?: (loading: ModelLoading) => void): Promise<Speech>;
}
