/** A language model on the device: chat in, words out. */
import * as v from 'valibot';
import { StudioError, cancelled } from '../core/errors.ts';
import type { LanguagePrecision } from '../core/language.ts';
import type { ModelLoading, TextDelta, TextRequest, TextResult } from '../core/text_service.ts';
import { Chat, WordStream, openTokenizer } from './chat.ts';
import type { Prompt } from './chat.ts';
import type { LanguageCheckpoint } from './language_checkpoint.ts';
import type { LanguageRuntime } from './language_runtime.ts';
import { openNetworks } from './networks.ts';
import { Sampler } from './sampling.ts';
import { ThinkingSplitter } from '../core/thinking.ts';
import type { TransformersLibrary, TransformersModule } from './transformers_library.ts';

type PreTrainedModel = InstanceType<TransformersModule['PreTrainedModel']>;
type Tensor = InstanceType<TransformersModule['Tensor']>;

const positive = v.pipe(v.number(), v.integer(), v.minValue(1));
/** The sampling settings of generation_config.json; invalid values count as absent. */
const habitsSchema = v.looseObject({
  top_k: v.fallback(v.nullish(v.pipe(v.number(), v.integer(), v.minValue(0))), null),
  top_p: v.fallback(v.nullish(v.pipe(v.number(), v.gtValue(0), v.maxValue(1))), null),
  eos_token_id: v.fallback(v.nullish(v.union([v.number(), v.array(v.number())])), null),
});

const requestSchema = v.looseObject({
  messages: v.pipe(
    v.array(v.object({ role: v.picklist(['system', 'user', 'assistant']), content: v.string() })),
    v.minLength(1, 'it has no messages'),
  ),
  max_new_tokens: v.pipe(v.number(), v.integer(), v.minValue(1, 'max_new_tokens must be at least 1')),
  temperature: v.pipe(v.number(), v.finite(), v.minValue(0, 'temperature must not be negative')),
  top_p: v.optional(
    v.pipe(v.number(), v.gtValue(0, 'top_p must be above 0'), v.maxValue(1, 'top_p must be at most 1')),
  ),
  top_k: v.optional(v.pipe(positive, v.integer('top_k must be a whole number'))),
  repetition_penalty: v.optional(v.pipe(v.number(), v.finite(), v.gtValue(0, 'repetition_penalty must be above 0'))),
  seed: v.pipe(v.string(), v.regex(/^-?\d{1,20}$/, 'seed must be a whole number')),
});

/** @throws StudioError `invalid_operation` */
export function requireTextRequest(request: TextRequest): void {
  const parsed = v.safeParse(requestSchema, request);
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw new StudioError(
      'invalid_operation',
      `This cannot be asked of a language model: ${issue.message}; change it and try again.`,
    );
  }
}

export class TextModel {
  readonly #library: TransformersLibrary;
  readonly #runtime: LanguageRuntime;
  readonly #checkpoint: LanguageCheckpoint;
  readonly #chat: Chat;
  readonly #model: PreTrainedModel;

  private constructor(
    library: TransformersLibrary,
    runtime: LanguageRuntime,
    checkpoint: LanguageCheckpoint,
    chat: Chat,
    model: PreTrainedModel,
  ) {
    this.#library = library;
    this.#runtime = runtime;
    this.#checkpoint = checkpoint;
    this.#chat = chat;
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
  ): Promise<TextModel> {
    const { AutoModelForCausalLM } = library.module;
    const { files, modelType } = checkpoint;
    if (!AutoModelForCausalLM.supports(modelType)) {
      throw new StudioError(
        'checkpoint_unsupported',
        `"${files.name}" is built as ${modelType}, which this version of Darkroom cannot run; choose another model.`,
      );
    }
    const chat = new Chat(await openTokenizer(library, checkpoint), files.name);
    const model = await openNetworks(library, runtime, checkpoint, precision, onLoading, (name, options) =>
      AutoModelForCausalLM.from_pretrained(name, options),
    );
    return new TextModel(library, runtime, checkpoint, chat, model);
  }

  /** The request's prompt. @throws StudioError `checkpoint_unsupported` | `context_too_long` */
  prompt({ messages, thinking }: TextRequest): Prompt {
    const prompt = this.#chat.prompt(messages, thinking);
    const limit = this.#checkpoint.contextTokens;
    if (limit !== null && prompt.ids.length >= limit) {
      const number = (value: number) => value.toLocaleString('en');
      throw new StudioError(
        'context_too_long',
        `This is ${number(prompt.ids.length)} tokens long, and "${this.#checkpoint.files.name}" takes ${number(limit)} with its answer; shorten it, or choose a model with a longer context.`,
      );
    }
    return prompt;
  }

  /**
   * @param prompt of the request
   * @throws StudioError `cancelled` within one token of the signal, `result_invalid`, and what the engine throws
   */
  async generate(
    request: TextRequest,
    prompt: Prompt,
    onDelta: (delta: TextDelta) => void,
    signal: AbortSignal,
  ): Promise<TextResult> {
    const { LogitsProcessorList, StoppingCriteriaList, Tensor } = this.#library.module;
    const limit = this.#checkpoint.contextTokens;
    const room = limit === null ? request.max_new_tokens : Math.min(request.max_new_tokens, limit - prompt.ids.length);
    const reply = new Reply(this.#chat, prompt.text, onDelta);

    const processors = new LogitsProcessorList();
    processors.push(this.#chooser(request) as Parameters<typeof processors.push>[0]);
    const criteria = new StoppingCriteriaList();
    const stops = (sequences: unknown[]) => sequences.map(() => signal.aborted);
    criteria.push(stops as unknown as Parameters<typeof criteria.push>[0]);
    const length = prompt.ids.length;
    const tensor = (value: (index: number) => bigint) =>
      new Tensor(
        'int64',
        BigInt64Array.from({ length }, (_, index) => value(index)),
        [1, length],
      );

    const stop = this.#yieldBetweenTokens();
    try {
      await this.#runtime.guard(
        this.#model.generate({
          input_ids: tensor((index) => BigInt(prompt.ids[index])),
          attention_mask: tensor(() => 1n),
          // Greedy over what the chooser leaves, which is a single token if it draws.
          do_sample: false,
          max_new_tokens: room,
          ...(request.repetition_penalty !== undefined && { repetition_penalty: request.repetition_penalty }),
          logits_processor: processors,
          stopping_criteria: criteria,
          streamer: reply as unknown as InstanceType<TransformersModule['TextStreamer']>,
        }),
      );
    } finally {
      stop();
    }
    if (signal.aborted) {
      throw cancelled();
    }
    const { text, thinking, ids } = reply.ended();
    const finish = this.#isEnd(ids.at(-1)) ? 'stop' : 'length';
    return { text, thinking, ids, tokens: { prompt: length, generated: ids.length, limit }, finish };
  }

  async release(): Promise<void> {
    await this.#runtime.guard(this.#model.dispose());
  }

  /** Masks all but the drawn token; leaves greedy search alone. */
  #chooser({ temperature, top_k: topK, top_p: topP, seed }: TextRequest): (ids: bigint[][], logits: Tensor) => Tensor {
    const habits = this.#habits();
    const sampler =
      temperature === 0
        ? null
        : new Sampler({ temperature, topK: topK ?? (habits.top_k || null), topP: topP ?? habits.top_p ?? 1 }, seed);
    return (_, logits) => {
      const values = logits.data as Float32Array;
      if (Number.isNaN(values[0])) {
        throw new StudioError(
          'result_invalid',
          `"${this.#checkpoint.files.name}" computed no numbers on this device; take it in another precision.`,
        );
      }
      if (sampler) {
        const token = sampler.choose(values);
        values.fill(-Infinity);
        values[token] = 0;
      }
      return logits;
    };
  }

  /**
   * The processor backend never yields while computing, so no cancel would arrive and no word leave in between.
   * @returns a function that restores the original
   */
  #yieldBetweenTokens(): () => void {
    const model = this.#model;
    const forward = model.forward.bind(model);
    model.forward = async (inputs: object) => {
      await turnOfEvents();
      return (await forward(inputs)) as unknown;
    };
    return () => {
      model.forward = forward;
    };
  }

  #habits(): v.InferOutput<typeof habitsSchema> {
    const own: unknown = this.#model.generation_config ?? {};
    return v.parse(habitsSchema, { ...this.#checkpoint.config, ...(own as object) });
  }

  #isEnd(id: number | undefined): boolean {
    const { eos_token_id: end } = this.#habits();
    return id !== undefined && [end].flat().includes(id);
  }
}

/** Receives the reply as it comes; a streamer in transformers.js' terms. */
class Reply {
  readonly #stream: WordStream;
  readonly #splitter: ThinkingSplitter;
  readonly #onDelta: (delta: TextDelta) => void;
  readonly #ids: number[] = [];
  #text = '';
  #thinking = '';
  #hasPrompt = false;

  constructor(chat: Chat, prompt: string, onDelta: (delta: TextDelta) => void) {
    this.#stream = new WordStream(chat);
    this.#splitter = new ThinkingSplitter(prompt);
    this.#onDelta = onDelta;
  }

  /** @param sequences the prompt at first, then one token at a time */
  put([tokens]: bigint[][]): void {
    if (!this.#hasPrompt) {
      this.#hasPrompt = true;
      return;
    }
    for (const token of tokens) {
      this.#ids.push(Number(token));
      this.#tell(this.#splitter.push(this.#stream.push(Number(token))));
    }
  }

  end(): void {
    this.#tell(this.#splitter.push(this.#stream.end()));
    this.#tell(this.#splitter.end());
  }

  ended(): { text: string; thinking: string; ids: number[] } {
    return { text: this.#text, thinking: this.#thinking.trimEnd(), ids: this.#ids };
  }

  #tell(deltas: TextDelta[]): void {
    for (const delta of deltas) {
      if (delta.thinking) {
        this.#thinking += delta.text;
      } else {
        this.#text += delta.text;
      }
      this.#onDelta(delta);
    }
  }
}

/** Yields to pending events. A message is quicker than a timer, since browsers throttle nested timers. */
function turnOfEvents(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
