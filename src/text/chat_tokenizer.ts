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
const configSchema = v.looseObject({ chat_template: v.nullish(v.string()), pad_token: v.nullish(named) });
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
}

/** Qwen3's own template for one turn of the user, leaving room for thoughts or an empty thought, and what it fills up with. */
export const QWEN3_USUAL: UsualSettings = {
  template: String.raw`{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}`,
  pad: '<|endoftext|>',
};

export class ChatTokenizer {
  /** Pads to a fixed length. */
  readonly pad: number;
  readonly #tokenizer: Tokenizer;
  readonly #template: Template;
  /** Of tokens that stand for themselves. */
  readonly #ids: ReadonlyMap<string, number>;

  /**
   * @param limit the most tokens that are read
   * @param variables for the template, such as whether it leaves room for thoughts
   * @param usual where the files have none
   * @throws StudioError `checkpoint_incomplete` if a file is missing, `checkpoint_damaged` if one is not what it should be
   */
  constructor(
    files: TokenizerFiles,
    readonly limit: number,
    readonly variables: Readonly<Record<string, unknown>>,
    usual?: UsualSettings,
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
    const said = typeof config.pad_token === 'string' ? config.pad_token : config.pad_token?.content;
    const pad = said ?? usual?.pad;
    this.#ids = new Map(definition.added_tokens.map(({ content, id }) => [content, id]));
    this.pad = this.idOf(pad ?? '') ?? 0;
  }

  /** Of a token that stands for itself; undefined where the vocabulary has none such. */
  idOf(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /** @param more variables for the template, of this prompt alone */
  encode(prompt: string, more: Readonly<Record<string, unknown>> = {}): ChatTokens {
    const messages = [{ role: 'user', content: prompt }];
    const written = this.#template.render({ ...this.variables, ...more, messages, add_generation_prompt: true });
    const all = this.#tokenizer.encode(written).ids;
    const ids = Int32Array.from(all.slice(0, this.limit));
    return { ids, tokens: all.length, text: all.length <= this.limit ? prompt : this.#readOf(ids, written, prompt) };
  }

  /** The prompt up to where it was cut. */
  #readOf(ids: Int32Array, written: string, prompt: string): string {
    const options = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
    return this.#tokenizer.decode([...ids], options).slice(written.indexOf(prompt));
  }
}
