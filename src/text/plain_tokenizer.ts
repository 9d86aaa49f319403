/** The tokenizer of a language model that reads texts as they are, ended by whatever tokens the model's files put behind every text. */
import { Tokenizer } from '@huggingface/tokenizers';
import { StudioError } from '../core/errors.ts';
import { definitionSchema } from './chat_tokenizer.ts';
import type { TokenizerFiles } from './clip_tokenizer.ts';
import { readTokenizerJson } from './tokenizer_json.ts';

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
    const definition = readTokenizerJson(files, 'tokenizer.json', definitionSchema);
    if (!definition) {
      throw new StudioError(
        'checkpoint_incomplete',
        'This checkpoint lacks tokenizer/tokenizer.json; add the missing file.',
      );
    }
    try {
      this.#tokenizer = new Tokenizer(definition, {});
    } catch (cause) {
      const message = 'The tokenizer of this checkpoint cannot be read; get its files again.';
      throw new StudioError('checkpoint_damaged', message, { cause });
    }
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
