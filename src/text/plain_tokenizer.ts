/** The tokenizer of a language model that reads texts as they are, ended by whatever tokens the model's files put behind every text. */
import type { Tokenizer } from '@huggingface/tokenizers';
import type { TokenizerFiles } from './clip_tokenizer.ts';
import { openTokenizer } from './opened_tokenizer.ts';

export interface PlainTokens {
  /** The ids that are read. */
  ids: Int32Array<ArrayBuffer>;
  /** Tokens of the whole text. */
  tokens: number;
}

export class PlainTokenizer {
  readonly #tokenizer: Tokenizer;

  /** @throws StudioError `checkpoint_incomplete` if a file is missing, `checkpoint_damaged` if one is not what it should be */
  constructor(files: TokenizerFiles) {
    this.#tokenizer = openTokenizer(files);
  }

  /** All of a text, with whatever the model's files put before and behind it. */
  whole(text: string): Int32Array<ArrayBuffer> {
    return Int32Array.from(this.#tokenizer.encode(text).ids);
  }

  /** @param limit the most tokens that are read, those at the end of every text included */
  encode(text: string, limit: number): PlainTokens {
    const own = this.#tokenizer.encode(text, { add_special_tokens: false }).ids;
    const all = this.#tokenizer.encode(text).ids;
    const end = all.slice(own.length);
    return { ids: Int32Array.from([...own.slice(0, limit - end.length), ...end]), tokens: all.length };
  }
}
