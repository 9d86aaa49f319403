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

/** Steps of denoising, for the family that speaks by diffusion: what its authors use. */
const DIFFUSION_STEPS = 5;

/** What the families of voices add to a model class. */
interface SpeakingModel extends PreTrainedModel {
  generate_speech(inputs: {
    input_ids: Tensor;
    attention_mask: Tensor;
    style: Tensor;
    num_inference_steps: number;
    speed: number;
  }): Promise<{ waveform: Tensor; durations: Tensor }>;
}

export class Voice {
  readonly #library: TransformersLibrary;
  readonly #runtime: LanguageRuntime;
  readonly #checkpoint: LanguageCheckpoint;
  readonly #tokenizer: Tokenizer;
  readonly #model: PreTrainedModel;

  private constructor(
    library: TransformersLibrary,
    runtime: LanguageRuntime,
    checkpoint: LanguageCheckpoint,
    tokenizer: Tokenizer,
    model: PreTrainedModel,
  ) {
    this.#library = library;
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
    const { AutoModelForTextToWaveform, AutoModelForTextToSpectrogram } = library.module;
    const Model = AutoModelForTextToWaveform.supports(checkpoint.modelType)
      ? AutoModelForTextToWaveform
      : AutoModelForTextToSpectrogram;
    const tokenizer = await openTokenizer(library, checkpoint);
    const model = await openNetworks(library, runtime, checkpoint, precision, onLoading, (name, options) =>
      Model.from_pretrained(name, options),
    );
    return new Voice(library, runtime, checkpoint, tokenizer, model);
  }

  /** @throws StudioError `invalid_operation` for what this voice cannot do */
  require({ text, voice, speed }: SpeechRequest): void {
    const { name } = this.#checkpoint.files;
    const { voices, modelType } = this.#checkpoint;
    if (text.trim() === '') {
      throw new StudioError('invalid_operation', 'There is no text to speak; write something first.');
    }
    if (voice !== undefined && !voices.has(voice)) {
      throw new StudioError(
        'invalid_operation',
        voices.size === 0
          ? `"${name}" has a single voice; leave "voice" out.`
          : `"${name}" has no voice "${voice}"; take one of ${[...voices.keys()].join(', ')}.`,
      );
    }
    if (speed !== undefined && !(speed >= 0.25 && speed <= 4)) {
      throw new StudioError('invalid_operation', 'The speed must lie between 0.25 and 4; 1 is normal.');
    }
    if (speed !== undefined && speed !== 1 && modelType === 'vits') {
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
    const waveform = await this.#runtime.guard(this.#waveform(request));
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

  async #waveform({ text, voice, speed = 1 }: SpeechRequest): Promise<Float32Array<ArrayBuffer>> {
    const inputs = this.#tokenizer(text);
    if (this.#checkpoint.modelType !== 'supertonic') {
      const { waveform } = (await this.#model(inputs)) as { waveform: Tensor };
      return Float32Array.from(waveform.data as Float32Array);
    }
    const { waveform, durations } = await (this.#model as SpeakingModel).generate_speech({
      ...inputs,
      style: await this.#style(voice),
      num_inference_steps: DIFFUSION_STEPS,
      speed,
    });
    const length = Math.ceil((durations.data as Float32Array)[0]);
    return Float32Array.from((waveform.data as Float32Array).subarray(0, length));
  }

  /** The speaker's style, which families with several voices keep in a file each. */
  async #style(voice: string | undefined): Promise<Tensor> {
    const { files, voices, config } = this.#checkpoint;
    const path = voice === undefined ? [...voices.values()][0] : voices.get(voice);
    if (path === undefined) {
      throw new StudioError(
        'checkpoint_incomplete',
        `"${files.name}" has no voices; get the files of its folder voices.`,
      );
    }
    const values = new Float32Array(await (await files.blob(path)).arrayBuffer());
    const width = Number(config.style_dim);
    return new this.#library.module.Tensor('float32', values, [1, values.length / width, width]);
  }

  /** Letters that leave nothing behind when the text is tokenized, of voices that read letter by letter. */
  #unspoken(text: string): string {
    if (this.#checkpoint.modelType !== 'vits') {
      return '';
    }
    const vocabulary = this.#tokenizer.get_vocab();
    const known = vocabulary instanceof Map ? vocabulary : new Map(Object.entries(vocabulary));
    const letters = [...new Set(text)].filter((letter) => letter.trim() !== '');
    return letters.filter((letter) => !known.has(letter) && !known.has(letter.toLowerCase())).join('');
  }
}
