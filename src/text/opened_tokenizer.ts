/** Opens the tokenizer that a folder describes in `tokenizer.json`. */
import { Tokenizer } from '@huggingface/tokenizers';
import { StudioError } from '../core/errors.ts';
import { definitionSchema } from './chat_tokenizer.ts';
import type { TokenizerFiles } from './clip_tokenizer.ts';
import { readTokenizerJson } from './tokenizer_json.ts';

/** @throws StudioError `checkpoint_incomplete` if the file is missing, `checkpoint_damaged` if it is not what it should be */
export function openTokenizer(files: TokenizerFiles): Tokenizer {
  const definition = readTokenizerJson(files, 'tokenizer.json', definitionSchema);
  if (!definition) {
    throw new StudioError(
      'checkpoint_incomplete',
      'This checkpoint lacks tokenizer/tokenizer.json; add the missing file.',
    );
  }
  try {
    return new Tokenizer(definition, {});
  } catch (cause) {
    const message = 'The tokenizer of this checkpoint cannot be read; get its files again.';
    throw new StudioError('checkpoint_damaged', message, { cause });
  }
}
