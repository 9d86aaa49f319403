/**
 * The text and speech services, asked of a language engine in another worker. It knows a connection only; when the worker at its other end is
 * gone, what was asked fails with `worker_failed` and the next request asks for another connection.
 */
import { StudioError, cancelled } from '../core/errors.ts';
import type { Speech, SpeechRequest, SpeechService } from '../core/speech_service.ts';
import type { ModelLoading, TextDelta, TextRequest, TextResult, TextService } from '../core/text_service.ts';
import type { LanguageConnection } from './language_api.ts';
import type { LanguageAnswer, LanguageMessage, LanguageWord } from './language_api.ts';

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

export interface LanguageClientOptions {
  /** A port of a living language worker, which is made where there is none. */
  connect: () => Promise<LanguageConnection>;
  /** As `connect`, but null where there is none: for those who want nothing but its memory. Where nothing is said, only one's own. */
  connectIfAlive?: () => Promise<LanguageConnection | null>;
  /** Called before a model that takes this many bytes is brought to the device; what else is there may have to go. */
  makeRoom?: (bytes: number) => Promise<void>;
}

/** After these its worker ends, and what is asked next needs another one. */
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
   * Frees the device's memory, for whoever else needs it. Starts nothing that does not run yet.
   * @param fits bytes that a model may keep
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
        // It comes to us when the worker that held it is gone.
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
