/**
 * The vocabulary of OpenAI's CLIP, for checkpoints that are one file and so bring no tokenizer: Stable Diffusion 1 and 2 both use it.
 * `clip_merges.txt` holds the 48,894 merges of openai/CLIP's `bpe_simple_vocab_16e6.txt` (MIT, see clip_merges.LICENSE); the
 * ids follow from them, as in its `simple_tokenizer.py`. It is fetched when it is needed, and kept offline with the page.
 */
import { StudioError } from '../core/errors.ts';
import type { TokenizerFiles } from './clip_tokenizer.ts';

const BEGIN = '<|startoftext|>';
const END = '<|endoftext|>';

/**
 * The files of a `tokenizer` folder as the published checkpoints have them.
 * @param pad what prompts are filled up with: the end token in Stable Diffusion 1, `!` in 2
 * @throws StudioError `checkpoint_incomplete` when the vocabulary cannot be fetched
 */
export async function clipTokenizerFiles(pad: '<|endoftext|>' | '!'): Promise<TokenizerFiles> {
  const merges = await fetchMerges();
  const files: Record<string, string> = {
    'merges.txt': merges,
    'vocab.json': JSON.stringify(vocabularyOf(merges)),
    'special_tokens_map.json': JSON.stringify({
      bos_token: BEGIN,
      eos_token: END,
      unk_token: END,
      pad_token: pad,
    }),
    'tokenizer_config.json': JSON.stringify({ model_max_length: 77 }),
  };
  return { read: (name) => files[name] };
}

let fetched: Promise<string> | null = null;

/** Once for all checkpoints. */
function fetchMerges(): Promise<string> {
  if (!fetched) {
    fetched = fetch(new URL('./clip_merges.txt', import.meta.url))
      .then((response) => (response.ok ? response.text() : Promise.reject(new Error(`HTTP ${response.status}`))))
      .catch((cause: unknown) => {
        fetched = null;
        throw new StudioError(
          'checkpoint_incomplete',
          'The vocabulary for checkpoints of one file could not be fetched; check the connection and open it again.',
          { retry: 'same', cause },
        );
      });
  }
  return fetched;
}

/** Each byte, each byte at the end of a word, each merge, and the two marks. */
function vocabularyOf(merges: string): Record<string, number> {
  const bytes = byteSymbols();
  const joined = merges
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#version'))
    .map((line) => line.replace(' ', ''));
  const entries = [...bytes, ...bytes.map((symbol) => `${symbol}</w>`), ...joined, BEGIN, END];
  // fromEntries defines keys, so that words such as `__proto__` are entries like any other.
  return Object.fromEntries(entries.map((entry, id) => [entry, id]));
}

/** The characters that stand for the 256 bytes: those that print for themselves first, then the others, moved up. */
function byteSymbols(): string[] {
  const prints = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const others = bytes.filter((byte) => !prints(byte)).map((_, n) => 256 + n);
  return [...bytes.filter(prints), ...others].map((code) => String.fromCodePoint(code));
}
