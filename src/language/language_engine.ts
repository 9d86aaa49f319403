/**
 * The language engine: one model on the device and one request at a time. It receives ports and answers each request on the port that came
 * with it. Who asks, and whose turn it is to use the GPU, is not its concern.
 */
import { StudioError, cancelled } from '../core/errors.ts';
import type { LanguageKind, LanguageSummary } from '../core/language.ts';
import type { Speech, SpeechRequest } from '../core/speech_service.ts';
import type { ModelLoading, TextRequest, TextResult } from '../core/text_service.ts';
import { Mutex } from '../engine/mutex.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import type { LanguageAnswer, LanguageMessage, LanguageWord } from './language_api.ts';
import { LanguageCheckpoint } from './language_checkpoint.ts';
import type { LanguageRuntime } from './language_runtime.ts';
import { TextModel, requireTextRequest } from './text_model.ts';
import type { TransformersLibrary } from './transformers_library.ts';
import { Voice } from './voice.ts';

/** What is on the device. */
interface Held {
  /** Identifies the exact files. */
  key: string;
  model: TextModel | Voice;
  /** On the device; a guess. */
  bytes: number;
}

/** The asking side of one request. */
interface Asker {
  say: (answer: LanguageAnswer) => void;
  /** Resolves once it has made room for this many bytes. @throws StudioError `cancelled` */
  room: (bytes: number) => Promise<void>;
  signal: AbortSignal;
}

/** The shortest interval between reports on loading, in milliseconds. */
const TELL_EVERY = 100;

/** How long a requester may take to make room, in milliseconds; freeing weights takes less than a second. */
const ROOM_WITHIN = 15_000;

export class LanguageEngine {
  readonly #library: TransformersLibrary;
  readonly #runtime: LanguageRuntime;
  readonly #files: (ref: string) => Promise<CheckpointFiles>;
  readonly #onBroken: (error: StudioError) => void;
  readonly #turns = new Mutex();
  #held: Held | null = null;
  #broken: StudioError | null = null;

  /**
   * @param files finds the files of a checkpoint by its ref
   * @param onBroken called once when nothing more can be computed here: after one failed run, transformers.js fails every later one
   */
  constructor(
    library: TransformersLibrary,
    runtime: LanguageRuntime,
    files: (ref: string) => Promise<CheckpointFiles>,
    onBroken: (error: StudioError) => void,
  ) {
    this.#library = library;
    this.#runtime = runtime;
    this.#files = files;
    this.#onBroken = onBroken;
  }

  /** Accepts requests on a port. */
  serve(port: MessagePort): void {
    port.onmessage = ({ data }: MessageEvent<LanguageMessage>) => {
      void this.#answer(data);
    };
  }

  async look(files: CheckpointFiles): Promise<LanguageSummary> {
    return (await LanguageCheckpoint.open(files)).summary(this.#runtime.device);
  }

  async #answer(message: LanguageMessage): Promise<void> {
    const { reply } = message;
    const controller = new AbortController();
    const { signal } = controller;
    let onReady: () => void = () => undefined;
    reply.onmessage = ({ data }: MessageEvent<LanguageWord>) => {
      if (data.type === 'cancel') {
        controller.abort();
      } else {
        onReady();
      }
    };
    // In browsers that report it, do not compute for a requester that is gone.
    reply.addEventListener('close', () => controller.abort());
    const say = (answer: LanguageAnswer) => reply.postMessage(answer);
    const room = (bytes: number) =>
      new Promise<void>((ready, failed) => {
        // The requester may be silently gone, while others are waiting.
        const patience = setTimeout(ready, ROOM_WITHIN);
        onReady = () => {
          clearTimeout(patience);
          ready();
        };
        signal.addEventListener('abort', () => {
          clearTimeout(patience);
          failed(cancelled());
        });
        say({ type: 'room', bytes });
      });
    try {
      const result = await this.#turns.run(() => this.#carryOut(message, { say, room, signal }));
      say({ type: 'done', result });
    } catch (error) {
      say({ type: 'failed', error: StudioError.from(error).toData() });
    } finally {
      if (this.#broken) {
        this.#onBroken(this.#broken);
      }
    }
  }

  async #carryOut(message: LanguageMessage, asker: Asker): Promise<TextResult | Speech | null> {
    if (this.#broken) {
      throw this.#broken;
    }
    if (asker.signal.aborted) {
      throw cancelled();
    }
    switch (message.type) {
      case 'release':
        if (this.#held && this.#held.bytes > message.fits) {
          await this.#release();
        }
        return null;
      case 'generate':
        return this.#generate(message.request, asker);
      case 'speak':
        return this.#speak(message.request, asker);
    }
  }

  async #generate(request: TextRequest, asker: Asker): Promise<TextResult> {
    requireTextRequest(request);
    const model = await this.#model(request.model, 'text', asker);
    if (!(model instanceof TextModel)) {
      throw new Error('Assertion failed: a text checkpoint opens as a text model');
    }
    const prompt = model.prompt(request);
    return this.#computed(
      model.generate(request, prompt, (delta) => asker.say({ type: 'delta', delta }), asker.signal),
    );
  }

  async #speak(request: SpeechRequest, asker: Asker): Promise<Speech> {
    const model = await this.#model(request.model, 'speech', asker);
    if (!(model instanceof Voice)) {
      throw new Error('Assertion failed: a speech checkpoint opens as a voice');
    }
    model.require(request);
    return this.#computed(model.speak(request, asker.signal));
  }

  /** Loads the model of this ref in the best available precision that runs here. */
  async #model(ref: string, kind: LanguageKind, { say, room }: Asker): Promise<TextModel | Voice> {
    const files = await this.#files(ref);
    const key = JSON.stringify([ref, kind, ...files.paths().map((path) => [path, files.version(path)])]);
    // Otherwise the first token would wait for its small files to be read again.
    if (this.#held?.key === key) {
      return this.#held.model;
    }
    const checkpoint = await LanguageCheckpoint.open(files);
    if (checkpoint.kind !== kind) {
      throw new StudioError(
        'checkpoint_unsupported',
        kind === 'text'
          ? `"${files.name}" speaks and does not write; choose a language model.`
          : `"${files.name}" writes and does not speak; choose a voice.`,
      );
    }
    const choices = await checkpoint.precisions(this.#runtime.device);
    const choice = choices.find(({ misfit }) => misfit === null);
    if (!choice) {
      throw new StudioError(
        choices.length === 0 ? 'checkpoint_incomplete' : 'checkpoint_unsupported',
        choices.length === 0
          ? `"${files.name}" lacks some of its networks; get the whole checkpoint.`
          : `"${files.name}" is here only as ${choices.map(({ precision }) => precision).join(', ')}. ${choices[0].misfit}`,
      );
    }
    const { precision, memoryBytes: bytes } = choice;
    await this.#release();
    await room(bytes);
    const open = kind === 'text' ? TextModel.open : Voice.open;
    const tell = nowAndThen((loading) => say({ type: 'loading', loading }));
    const model = await this.#computed<TextModel | Voice>(
      open(this.#library, this.#runtime, checkpoint, precision, tell),
    );
    this.#held = { key, model, bytes };
    return model;
  }

  async #release(): Promise<void> {
    const held = this.#held;
    this.#held = null;
    if (held) {
      await this.#computed(held.model.release());
    }
  }

  /** Runs a computation of the library or the runtime; if one fails, every later one would. */
  async #computed<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (thrown) {
      const error = StudioError.from(thrown);
      if (!CLEAN.has(error.code)) {
        this.#broken = error;
      }
      throw error;
    }
  }
}

/** Errors that leave the engine intact: thrown before anything was computed, or after computing ended. */
const CLEAN = new Set<StudioError['code']>([
  'cancelled',
  'invalid_operation',
  'checkpoint_incomplete',
  'checkpoint_damaged',
  'checkpoint_unsupported',
]);

function nowAndThen(tell: (loading: ModelLoading) => void): (loading: ModelLoading) => void {
  let last = -Infinity;
  return (loading) => {
    const now = performance.now();
    if (loading.done === 0 || loading.done === loading.total || now - last >= TELL_EVERY) {
      last = now;
      tell(loading);
    }
  };
}
