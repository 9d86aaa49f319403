/**
 * The text and speech services, asked of a language engine in another worker. It knows a connection only; when the worker at its other end is
 * gone, what was asked fails with `worker_failed` and the next request asks for another connection.
 */
import { StudioError, cancelled } from '../core/errors.ts';
import type { Speech, SpeechRequest, SpeechService } from '../core/speech_service.ts';
import type { ModelLoading, TextDelta, TextRequest, TextResult, TextService } from '../core/text_service.ts';
import type { LanguageAnswer, LanguageCancel, LanguageConnection, LanguageMessage } from './language_api.ts';

/** A message before it has the port that it is answered on. */
type Question = LanguageMessage extends infer Message
  ? Message extends LanguageMessage
    ? Omit<Message, 'reply'>
    : never
  : never;

interface Listener {
  delta?: (delta: TextDelta) => void;
  loading?: ((loading: ModelLoading) => void) | undefined;
}

interface Open {
  port: MessagePort;
  /** Rejects when the worker at the other end is gone. */
  death: Promise<never>;
}

export class LanguageClient implements TextService, SpeechService {
  readonly #connect: () => Promise<LanguageConnection>;
  #open: Promise<Open> | null = null;

  /** @param connect gives a port of a living language worker, which it makes where there is none */
  constructor(connect: () => Promise<LanguageConnection>) {
    this.#connect = connect;
  }

  async generate(
    request: TextRequest,
    onDelta: (delta: TextDelta) => void,
    signal: AbortSignal,
    onLoading?: (loading: ModelLoading) => void,
  ): Promise<TextResult> {
    return (await this.#ask({ type: 'generate', request }, signal, {
      delta: onDelta,
      loading: onLoading,
    })) as TextResult;
  }

  async speak(
    request: SpeechRequest,
    signal: AbortSignal,
    onLoading?: (loading: ModelLoading) => void,
  ): Promise<Speech> {
    return (await this.#ask({ type: 'speak', request }, signal, { loading: onLoading })) as Speech;
  }

  /** Frees the device's memory, for whoever else needs it. Starts nothing that does not run yet. */
  async release(): Promise<void> {
    if (this.#open) {
      await this.#ask({ type: 'release' }, new AbortController().signal, {});
    }
  }

  async #ask(question: Question, signal: AbortSignal, listener: Listener): Promise<TextResult | Speech | null> {
    const { port, death } = await this.#living();
    if (signal.aborted) {
      throw cancelled();
    }
    const { port1: answers, port2: reply } = new MessageChannel();
    const cancel = () => answers.postMessage({ type: 'cancel' } satisfies LanguageCancel);
    signal.addEventListener('abort', cancel);
    try {
      const answer = new Promise<TextResult | Speech | null>((done, failed) => {
        answers.onmessage = ({ data }: MessageEvent<LanguageAnswer>) => {
          switch (data.type) {
            case 'delta':
              listener.delta?.(data.delta);
              break;
            case 'loading':
              listener.loading?.(data.loading);
              break;
            case 'done':
              done(data.result);
              break;
            case 'failed':
              failed(StudioError.fromData(data.error));
          }
        };
      });
      port.postMessage({ ...question, reply } satisfies LanguageMessage, [reply]);
      return await Promise.race([answer, death]);
    } finally {
      signal.removeEventListener('abort', cancel);
      answers.close();
    }
  }

  #living(): Promise<Open> {
    this.#open ??= this.#opened().catch((error: unknown) => {
      this.#open = null;
      throw error;
    });
    return this.#open;
  }

  async #opened(): Promise<Open> {
    const { port, lock } = await this.#connect();
    port.start();
    const death = new Promise<never>((_, gone) => {
      if (lock !== null) {
        // It comes to us when the worker that held it is gone.
        void navigator.locks.request(lock, () => {
          this.#open = null;
          port.close();
          gone(
            new StudioError('worker_failed', 'The language engine stopped unexpectedly; try again.', { retry: 'same' }),
          );
        });
      }
    });
    death.catch(() => undefined);
    return { port, death };
  }
}
