/**
 * Qwen2's tokenizer from its older files: a folder with `vocab.json` and `merges.txt`, as Qwen-Image is published, becomes one with the
 * `tokenizer.json` that means the same.
 * Reference: transformers/models/qwen2/tokenization_qwen2.py
 */
import * as v from 'valibot';
import type { TokenizerFiles } from './clip_tokenizer.ts';
import { readTokenizerJson } from './tokenizer_json.ts';

const WORDS = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const vocabularySchema = v.record(v.string(), v.number());
const configSchema = v.looseObject({
  added_tokens_decoder: v.optional(
    v.record(v.string(), v.looseObject({ content: v.string(), special: v.optional(v.boolean(), false) })),
    () => ({}),
  ),
});

/** The same files, with a `tokenizer.json` where they have none. @throws StudioError `checkpoint_damaged` */
export function withTokenizerJson(files: TokenizerFiles): TokenizerFiles {
  const merges = files.read('merges.txt');
  if (files.read('tokenizer.json') !== undefined || merges === undefined) {
    return files;
  }
  const vocab = readTokenizerJson(files, 'vocab.json', vocabularySchema);
  const { added_tokens_decoder: added } = readTokenizerJson(files, 'tokenizer_config.json', configSchema) ?? {
    added_tokens_decoder: {},
  };
  if (!vocab) {
    return files;
  }
  const definition = JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: Object.entries(added).map(([id, { content, special }]) => ({
      id: Number(id),
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special,
    })),
    normalizer: { type: 'NFC' },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: WORDS }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    model: { type: 'BPE', vocab, merges: mergesOf(merges), ignore_merges: false },
  });
  return { read: (name) => (name === 'tokenizer.json' ? definition : files.read(name)) };
}

/** Pairs, one a line below a line of its own that names the version. */
function mergesOf(text: string): string[] {
  return text.split('\n').filter((line, i) => line.trim() !== '' && !(i === 0 && line.startsWith('#version')));
}
