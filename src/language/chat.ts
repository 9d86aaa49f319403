/** A checkpoint's tokenizer and chat template. */
import { StudioError, describe } from '../core/errors.ts';
import type { ChatMessage } from '../core/text_service.ts';
import type { LanguageCheckpoint } from './language_checkpoint.ts';
import { isThinkingToken } from '../core/thinking.ts';
import type { TransformersLibrary, TransformersModule } from './transformers_library.ts';

export type Tokenizer = InstanceType<TransformersModule['PreTrainedTokenizer']>;

/** @throws StudioError `checkpoint_damaged` */
export async function openTokenizer(library: TransformersLibrary, checkpoint: LanguageCheckpoint): Promise<Tokenizer> {
  const { files, tokenizerConfig, chatTemplate } = checkpoint;
  const { tokenizer_class: named } = tokenizerConfig;
  const name = typeof named === 'string' ? named.replace(/Fast$/, '') : '';
  const classes = library.module as unknown as Record<string, unknown>;
  const known = classes[name];
  const Class = (
    typeof known === 'function' && name.endsWith('Tokenizer') ? known : library.module.PreTrainedTokenizer
  ) as TransformersModule['PreTrainedTokenizer'];
  try {
    const json: unknown = JSON.parse(await (await files.blob('tokenizer.json')).text());
    return new Class(json, { ...tokenizerConfig, chat_template: chatTemplate });
  } catch (cause) {
    throw cause instanceof StudioError
      ? cause
      : new StudioError(
          'checkpoint_damaged',
          `The tokenizer of "${files.name}" cannot be read (${describe(cause)}); get tokenizer.json again, or choose another model.`,
          { cause },
        );
  }
}

export interface Prompt {
  text: string;
  ids: number[];
}

export class Chat {
  readonly #tokenizer: Tokenizer;
  readonly #name: string;
  /** Special tokens that are left out of what is shown. */
  readonly #hidden: ReadonlySet<number>;

  /** @param name of the checkpoint, for sentences */
  constructor(tokenizer: Tokenizer, name: string) {
    this.#tokenizer = tokenizer;
    this.#name = name;
    const special = tokenizer.all_special_ids.map((id, index): [number, string] => [
      id,
      tokenizer.all_special_tokens[index],
    ]);
    this.#hidden = new Set(special.filter(([, token]) => !isThinkingToken(token)).map(([id]) => id));
  }

  /**
   * The messages in the model's chat template, up to the start of its reply.
   * @param thinking undefined = the template's default
   * @throws StudioError `checkpoint_unsupported` for a template that refuses these messages
   */
  prompt(messages: readonly ChatMessage[], thinking: boolean | undefined): Prompt {
    let text: string;
    try {
      text = this.#written(messages, thinking);
    } catch (refusal) {
      text = this.#withoutSystem(messages, thinking, refusal);
    }
    return { text, ids: this.#tokenizer.encode(text, { add_special_tokens: false }) };
  }

  /** Whether a token is special and so not shown. */
  isHidden(id: number): boolean {
    return this.#hidden.has(id);
  }

  /** Decodes tokens, including special ones. */
  words(ids: readonly number[]): string {
    return ids.length === 0 ? '' : this.#tokenizer.decode([...ids], { clean_up_tokenization_spaces: false });
  }

  #written(messages: readonly ChatMessage[], thinking: boolean | undefined): string {
    return this.#tokenizer.apply_chat_template([...messages], {
      tokenize: false,
      add_generation_prompt: true,
      ...(thinking !== undefined && { enable_thinking: thinking }),
    });
  }

  /** Some templates throw on system messages; the text is then prepended to the first user message. */
  #withoutSystem(messages: readonly ChatMessage[], thinking: boolean | undefined, refusal: unknown): string {
    const [first, second, ...more] = messages;
    try {
      if (messages.length > 1 && first.role === 'system' && second.role === 'user') {
        return this.#written([{ role: 'user', content: `${first.content}\n\n${second.content}` }, ...more], thinking);
      }
    } catch {
      // The error about the original messages is the one to report.
    }
    throw new StudioError(
      'checkpoint_unsupported',
      `The chat template of "${this.#name}" does not take these messages (${describe(refusal).slice(0, 200)}); choose another model.`,
      { cause: refusal },
    );
  }
}

/**
 * Decodes tokens that arrive one by one. A character may span several tokens, and how a word starts depends on the one before, so the last
 * returned piece is decoded again together with what follows.
 */
export class WordStream {
  readonly #chat: Chat;
  readonly #ids: number[] = [];
  /** Start and end of the last returned piece. */
  #piece = 0;
  #end = 0;

  constructor(chat: Chat) {
    this.#chat = chat;
  }

  /** The newly readable text. */
  push(id: number): string {
    if (!this.#chat.isHidden(id)) {
      this.#ids.push(id);
    }
    const fresh = this.#fresh();
    if (fresh === '' || fresh.endsWith(UNFINISHED)) {
      return '';
    }
    [this.#piece, this.#end] = [this.#end, this.#ids.length];
    return fresh;
  }

  /** The rest, at the end. */
  end(): string {
    return this.#fresh();
  }

  #fresh(): string {
    const known = this.#chat.words(this.#ids.slice(this.#piece, this.#end));
    return this.#chat.words(this.#ids.slice(this.#piece)).slice(known.length);
  }
}

/** Decoders write this for an incomplete character. */
const UNFINISHED = '\u{fffd}';
