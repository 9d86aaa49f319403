/** A text-to-speech model on the device. */
import { StudioError, cancelled } from '../core/errors.ts';
import type { LanguagePrecision } from '../core/language.ts';
import type { Speech, SpeechRequest } from '../core/speech_service.ts';
import type { ModelLoading } from '../core/text_service.ts';
import { openTokenizer } from './chat.ts';
import type { Tokenizer } from './chat.ts';
import type { LanguageCheckpoint } from './language_checkpoint.ts';
import type { LanguageRuntime } from './language_runtime.ts';
import { openNetworks } from './networks.ts';
import type { TransformersLibrary, TransformersModule } from './transformers_library.ts';

type PreTrainedModel = InstanceType<TransformersModule['PreTrainedModel']>;
type Tensor = InstanceType<TransformersModule['Tensor']>;

export class Voice {
  readonly #runtime: LanguageRuntime;
  readonly #checkpoint: LanguageCheckpoint;
  readonly #tokenizer: Tokenizer;
  readonly #model: PreTrainedModel;

  private constructor(
    runtime: LanguageRuntime,
    checkpoint: LanguageCheckpoint,
    tokenizer: Tokenizer,
    model: PreTrainedModel,
  ) {
    this.#runtime = runtime;
    this.#checkpoint = checkpoint;
    this.#tokenizer = tokenizer;
    this.#model = model;
  }

  /** @throws StudioError `checkpoint_…`, and what the engine throws */
  static async open(
    this: void,
    library: TransformersLibrary,
    runtime: LanguageRuntime,
    checkpoint: LanguageCheckpoint,
    precision: LanguagePrecision,
    onLoading: (loading: ModelLoading) => void,
  ): Promise<Voice> {
    const { AutoModelForTextToWaveform } = library.module;
    const tokenizer = await openTokenizer(library, checkpoint);
    const model = await openNetworks(library, runtime, checkpoint, precision, onLoading, (name, options) =>
      AutoModelForTextToWaveform.from_pretrained(name, options),
    );
    return new Voice(runtime, checkpoint, tokenizer, model);
  }

  /** @throws StudioError `invalid_operation` for what this voice cannot do */
  require({ text, voice, speed }: SpeechRequest): void {
    const { name } = this.#checkpoint.files;
    if (text.trim() === '') {
      throw new StudioError('invalid_operation', 'There is no text to speak; write something first.');
    }
    if (voice !== undefined) {
      throw new StudioError('invalid_operation', `"${name}" has a single voice; leave "voice" out.`);
    }
    if (speed !== undefined && speed !== 1) {
      throw new StudioError('invalid_operation', `"${name}" speaks at one speed only; leave "speed" out.`);
    }
  }

  /** @throws StudioError `invalid_operation` | `result_invalid` | `cancelled`, and what the engine throws */
  async speak(request: SpeechRequest, signal: AbortSignal): Promise<Speech> {
    const { name } = this.#checkpoint.files;
    const unspoken = this.#unspoken(request.text);
    if ([...request.text].every((letter) => unspoken.includes(letter) || letter.trim() === '')) {
      throw new StudioError(
        'invalid_operation',
        `"${name}" knows none of these letters; choose a voice of the text's language.`,
      );
    }
    const waveform = await this.#runtime.guard(this.#waveform(request.text));
    if (signal.aborted) {
      throw cancelled();
    }
    if (!waveform.every(Number.isFinite)) {
      throw new StudioError(
        'result_invalid',
        `"${name}" computed no sound on this device; take it in another precision.`,
      );
    }
    const rate = Number(this.#checkpoint.config.sampling_rate ?? 16_000);
    return { rate, channels: [waveform], unspoken };
  }

  async release(): Promise<void> {
    await this.#runtime.guard(this.#model.dispose());
  }

  async #waveform(text: string): Promise<Float32Array<ArrayBuffer>> {
    const { waveform } = (await this.#model(this.#tokenizer(text))) as { waveform: Tensor };
    return Float32Array.from(waveform.data as Float32Array);
  }

  /** Characters that the tokenizer drops; these voices tokenize character by character. */
  #unspoken(text: string): string {
    const vocabulary = this.#tokenizer.get_vocab();
    const known = vocabulary instanceof Map ? vocabulary : new Map(Object.entries(vocabulary));
    const letters = [...new Set(text)].filter((letter) => letter.trim() !== '');
    return letters.filter((letter) => !known.has(letter) && !known.has(letter.toLowerCase())).join('');
  }
}
