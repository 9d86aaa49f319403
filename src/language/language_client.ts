/**
 * The text and speech services of a language engine in another worker. It only has a connection; if the worker at the other end is gone,
 * pending requests fail with `worker_failed`, and the next request opens a new connection.
 */
import { StudioError, cancelled } from '../core/errors.ts';
import type { Speech, SpeechRequest, SpeechService } from '../core/speech_service.ts';
import type { ModelLoading, TextDelta, TextRequest, TextResult, TextService } from '../core/text_service.ts';
import type { LanguageConnection } from './language_api.ts';
import type { LanguageAnswer, LanguageMessage, LanguageWord } from './language_api.ts';

/** A message without its response port. */
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
  /** Rejects once the worker at the other end is gone. */
  death: Promise<never>;
}

export interface LanguageClientOptions {
  /** A port of the language worker, which is started if necessary. */
  connect: () => Promise<LanguageConnection>;
  /** Like `connect`, but null if none is running: for those who only want its memory. By default, only this client's own connection. */
  connectIfAlive?: () => Promise<LanguageConnection | null>;
  /** Called before a model of this many bytes is loaded; other models may have to be freed. */
  makeRoom?: (bytes: number) => Promise<void>;
}

/** Errors after which its worker ends and the next request needs a new one. */
const ENDS = new Set<StudioError['code']>(['gpu_lost', 'out_of_memory', 'internal', 'result_invalid', 'worker_failed']);

export class LanguageClient implements TextService, SpeechService {
  readonly #options: LanguageClientOptions;
  #open: Promise<Open> | null = null;

  constructor(options: LanguageClientOptions) {
    this.#options = options;
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

  /**
   * Frees the device's memory for somebody else. Never starts a worker.
   * @param fits the most bytes a model may keep
   */
  async release(fits = 0): Promise<void> {
    const { connectIfAlive } = this.#options;
    if (!this.#open && connectIfAlive) {
      const connection = await connectIfAlive();
      this.#open = connection && Promise.resolve(this.#opened(connection));
    }
    if (this.#open) {
      await this.#ask({ type: 'release', fits }, new AbortController().signal, {});
    }
  }

  async #ask(question: Question, signal: AbortSignal, listener: Listener): Promise<TextResult | Speech | null> {
    const open = this.#living();
    const { port, death } = await open;
    if (signal.aborted) {
      throw cancelled();
    }
    const { port1: answers, port2: reply } = new MessageChannel();
    const say = (type: LanguageWord['type']) => answers.postMessage({ type } satisfies LanguageWord);
    const cancel = () => say('cancel');
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
            case 'room':
              Promise.resolve(this.#options.makeRoom?.(data.bytes)).then(
                () => say('ready'),
                (error: unknown) => {
                  cancel();
                  failed(StudioError.from(error));
                },
              );
              break;
            case 'done':
              done(data.result);
              break;
            case 'failed':
              failed(StudioError.fromData({ ...data.error, engine: 'language' }));
          }
        };
      });
      port.postMessage({ ...question, reply } satisfies LanguageMessage, [reply]);
      return await Promise.race([answer, death]);
    } catch (thrown) {
      const error = StudioError.from(thrown);
      if (ENDS.has(error.code) && this.#open === open) {
        this.#open = null;
      }
      throw error;
    } finally {
      signal.removeEventListener('abort', cancel);
      answers.close();
    }
  }

  #living(): Promise<Open> {
    this.#open ??= this.#options.connect().then(
      (connection) => this.#opened(connection),
      (error: unknown) => {
        this.#open = null;
        throw error;
      },
    );
    return this.#open;
  }

  #opened({ port, lock }: LanguageConnection): Open {
    port.start();
    const death = new Promise<never>((_, gone) => {
      if (lock !== null) {
        // We get the lock once the worker that held it is gone.
        void navigator.locks.request(lock, () => {
          this.#open = null;
          port.close();
          gone(
            new StudioError('worker_failed', 'The language engine stopped unexpectedly; try again.', {
              retry: 'same',
              engine: 'language',
            }),
          );
        });
      }
    });
    death.catch(() => undefined);
    return { port, death };
  }
}
