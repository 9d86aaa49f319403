/**
 * The tokenizer of a language model that reads prompts for pictures: the prompt is written into the model's chat template, as a turn of the
 * user, and cut to what the pipeline reads.
 */
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { TokenizerFiles } from './clip_tokenizer.ts';

const named = v.union([v.string(), v.looseObject({ content: v.string() })]);
const configSchema = v.looseObject({ chat_template: v.nullish(v.string()), pad_token: v.nullish(named) });
const definitionSchema = v.looseObject({
  model: v.looseObject({ type: v.picklist(['BPE', 'Unigram']) }),
  added_tokens: v.optional(v.array(v.looseObject({ id: v.number(), content: v.string() })), () => []),
});

export interface ChatTokens {
  /** Those that are read, without padding. */
  ids: Int32Array<ArrayBuffer>;
  /** Of the whole prompt in its template. */
  tokens: number;
  /** What is read of the prompt, without the template. */
  text: string;
}

export class ChatTokenizer {
  /** Fills up what is shorter than a fixed length. */
  readonly pad: number;
  readonly #tokenizer: Tokenizer;
  readonly #template: Template;

  /**
   * @param limit the most tokens that are read
   * @param variables of the template, such as whether it leaves room for thoughts
   * @throws StudioError `checkpoint_incomplete` if a file is missing, `checkpoint_damaged` if one is not what it should be
   */
  constructor(
    files: TokenizerFiles,
    readonly limit: number,
    readonly variables: Readonly<Record<string, unknown>>,
  ) {
    const config = parsed(files, 'tokenizer_config.json', configSchema) ?? {};
    const definition = parsed(files, 'tokenizer.json', definitionSchema);
    const template = files.read('chat_template.jinja') ?? config.chat_template;
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
    const pad = typeof config.pad_token === 'string' ? config.pad_token : config.pad_token?.content;
    this.pad = definition.added_tokens.find(({ content }) => content === pad)?.id ?? 0;
  }

  encode(prompt: string): ChatTokens {
    const messages = [{ role: 'user', content: prompt }];
    const written = this.#template.render({ ...this.variables, messages, add_generation_prompt: true });
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

/** @returns undefined if there is no such file */
function parsed<S extends v.GenericSchema>(
  files: TokenizerFiles,
  name: string,
  schema: S,
): v.InferOutput<S> | undefined {
  const text = files.read(name);
  if (text === undefined) {
    return undefined;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const message = `The file tokenizer/${name} of this checkpoint is not valid JSON; get it again.`;
    throw new StudioError('checkpoint_damaged', message, { cause });
  }
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (!result.success) {
    const entry = v.getDotPath(result.issues[0]) ?? 'the whole file';
    const message = `The file tokenizer/${name} of this checkpoint has a wrong entry (${entry}); get it again.`;
    throw new StudioError('checkpoint_damaged', message);
  }
  return result.output;
}
