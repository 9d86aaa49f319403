/** The tokenizer of Gemma's encoders: pieces of text, and bytes where there is none; its files may put tokens of their own around every text. */
import type { Tokenizer } from '@huggingface/tokenizers';
import * as v from 'valibot';
import type { TokenizerFiles } from './clip_tokenizer.ts';
import { openTokenizer } from './opened_tokenizer.ts';
import { readTokenizerJson } from './tokenizer_json.ts';

export interface GemmaTokens {
  /** Those that are read, without padding. */
  ids: Int32Array<ArrayBuffer>;
  /** Of the whole prompt. */
  tokens: number;
  /** What is read of the prompt. */
  text: string;
}

const configSchema = v.looseObject({ model_max_length: v.optional(v.number()) });

export class GemmaTokenizer {
  readonly limit: number;
  /** Fills up what is shorter than the limit; no other token sees it. */
  readonly pad = 0;
  readonly #tokenizer: Tokenizer;

  /**
   * @param most tokens that are read; a folder may say fewer
   * @throws StudioError `checkpoint_incomplete` if a file is missing, `checkpoint_damaged` if one is not what it should be
   */
  constructor(files: TokenizerFiles, most: number) {
    const { model_max_length: limit = most } = readTokenizerJson(files, 'tokenizer_config.json', configSchema) ?? {};
    this.limit = Math.min(limit, most);
    this.#tokenizer = openTokenizer(files);
  }

  encode(prompt: string): GemmaTokens {
    const all = this.#tokenizer.encode(prompt).ids;
    if (all.length <= this.limit) {
      return { ids: Int32Array.from(all), tokens: all.length, text: prompt };
    }
    const own = this.#tokenizer.encode(prompt, { add_special_tokens: false }).ids;
    const around = all.length - own.length;
    const before =
      Array.from({ length: around + 1 }, (_, n) => n).find((n) => own.every((id, i) => id === all[n + i])) ?? 0;
    const read = own.slice(0, this.limit - around);
    const ids = Int32Array.from([...all.slice(0, before), ...read, ...all.slice(before + own.length)]);
    const text = this.#tokenizer.decode(read, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
    return { ids, tokens: all.length, text };
  }
}
