/**
 * The tokenizer of a language model that encodes prompts for pictures: the prompt is put into the model's chat template as the user's
 * turn, and truncated to what the pipeline reads.
 */
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { TokenizerFiles } from './clip_tokenizer.ts';
import { readTokenizerJson } from './tokenizer_json.ts';

const named = v.union([v.string(), v.looseObject({ content: v.string() })]);
const configSchema = v.looseObject({
  chat_template: v.nullish(v.string()),
  pad_token: v.nullish(named),
  bos_token: v.nullish(named),
});
/** The parts of a `tokenizer.json` that are checked before the library reads it. */
export const definitionSchema = v.looseObject({
  model: v.looseObject({ type: v.picklist(['BPE', 'Unigram']) }),
  added_tokens: v.optional(v.array(v.looseObject({ id: v.number(), content: v.string() })), () => []),
});

export interface ChatTokens {
  /** The ids that are read, without padding. */
  ids: Int32Array<ArrayBuffer>;
  /** Tokens of the whole prompt in its template. */
  tokens: number;
  /** The part of the prompt that is read, without the template. */
  text: string;
}

/** What stands in for a tokenizer's settings where there is nothing but its vocabulary. */
export interface UsualSettings {
  template: string;
  pad: string;
  /** What every text begins with. */
  start?: string;
}

/** Qwen3's own template for one turn of the user, leaving room for thoughts or an empty thought, and what it fills up with. */
export const QWEN3_USUAL: UsualSettings = {
  template: String.raw`{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}`,
  pad: '<|endoftext|>',
};

/** What a chat template is given of a prompt. */
export interface Conversation {
  /** The prompt as it is said; the default is to say it as it is. */
  said?: (prompt: string) => string;
  messages: (said: string) => { role: string; content: unknown }[];
  /** Whether the model's turn is begun. */
  begins: boolean;
}

const USER_ALONE: Conversation = { messages: (content) => [{ role: 'user', content }], begins: true };

export class ChatTokenizer {
  /** Pads to a fixed length. */
  readonly pad: number;
  readonly #tokenizer: Tokenizer;
  readonly #template: Template;
  /** Of tokens that stand for themselves. */
  readonly #ids: ReadonlyMap<string, number>;
  /** What a text begins with, if its template writes that. */
  readonly #start: string | undefined;

  /**
   * @param limit the most tokens that are read
   * @param variables for the template, such as whether it leaves room for thoughts
   * @param usual where the files have none
   * @param conversation that the prompt is said in
   * @throws StudioError `checkpoint_incomplete` if a file is missing, `checkpoint_damaged` if one is not what it should be
   */
  constructor(
    files: TokenizerFiles,
    readonly limit: number,
    readonly variables: Readonly<Record<string, unknown>>,
    usual?: UsualSettings,
    readonly conversation: Conversation = USER_ALONE,
  ) {
    const config = readTokenizerJson(files, 'tokenizer_config.json', configSchema) ?? {};
    const definition = readTokenizerJson(files, 'tokenizer.json', definitionSchema);
    const template = files.read('chat_template.jinja') ?? config.chat_template ?? usual?.template;
    if (!definition || !template) {
      throw new StudioError(
        'checkpoint_incomplete',
        `This checkpoint lacks tokenizer/${definition ? 'chat_template.jinja (and has no chat_template in tokenizer/tokenizer_config.json)' : 'tokenizer.json'}; add the missing file.`,
      );
    }
    try {
      this.#tokenizer = new Tokenizer(definition, {});
      this.#template = new Template(template);
    } catch (cause) {
      const message = 'The tokenizer of this checkpoint cannot be read; get its files again.';
      throw new StudioError('checkpoint_damaged', message, { cause });
    }
    this.#start = contentOf(config.bos_token) ?? usual?.start;
    const pad = contentOf(config.pad_token) ?? usual?.pad;
    this.#ids = new Map(definition.added_tokens.map(({ content, id }) => [content, id]));
    this.pad = this.idOf(pad ?? '') ?? 0;
  }

  /** Of a token that stands for itself; undefined where the vocabulary has none such. */
  idOf(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /** @param more variables for the template, of this prompt alone */
  encode(prompt: string, more: Readonly<Record<string, unknown>> = {}): ChatTokens {
    const { said = (same) => same, messages, begins } = this.conversation;
    const words = said(prompt);
    const about = { ...this.variables, ...more, bos_token: this.#start, messages: messages(words) };
    const written = this.#template.render({ ...about, add_generation_prompt: begins });
    const isBegun = this.#start !== undefined && written.startsWith(this.#start);
    const all = this.#tokenizer.encode(written, { add_special_tokens: !isBegun }).ids;
    const ids = Int32Array.from(all.slice(0, this.limit));
    return { ids, tokens: all.length, text: all.length <= this.limit ? words : this.#readOf(ids, written, words) };
  }

  /** The prompt up to where it was cut. */
  #readOf(ids: Int32Array, written: string, prompt: string): string {
    const options = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
    return this.#tokenizer.decode([...ids], options).slice(written.indexOf(prompt));
  }
}

function contentOf(token: v.InferOutput<typeof named> | null | undefined): string | undefined {
  return typeof token === 'string' ? token : token?.content;
}
