/**
 * SentencePiece's rules for a text before it is cut, from the map that `spiece.model` and `tokenizer.json` carry: a trie of UTF-8 sequences (a
 * double array, https://github.com/s-yata/darts-clone), and the texts that take their place.
 *
 * It goes by grapheme and then by character, and takes the shortest entry, as Hugging Face's `tokenizers` does and transformers with it;
 * SentencePiece itself takes the longest one.
 */
import { Normalizer } from '@huggingface/tokenizers';
import { StudioError } from '../core/errors.ts';

/** Longer graphemes, in bytes of UTF-8, are only looked up by character. */
const LONGEST_GRAPHEME = 5;

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' });
const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class PrecompiledRules extends Normalizer {
  readonly #units: Uint32Array;
  readonly #texts: Uint8Array;

  /**
   * @param charsmap length of the trie in bytes (32 bits), the trie, then texts that each end with a zero
   * @throws StudioError `checkpoint_damaged`
   */
  constructor(charsmap: Uint8Array) {
    super({ type: 'Precompiled', precompiled_charsmap: '' });
    const view = new DataView(charsmap.buffer, charsmap.byteOffset, charsmap.byteLength);
    const length = charsmap.length < 4 ? 0 : view.getUint32(0, true);
    if (length < 4 || length % 4 !== 0 || 4 + length > charsmap.length) {
      throw new StudioError(
        'checkpoint_damaged',
        'The rules for text in the tokenizer of this checkpoint are damaged; get its files again.',
      );
    }
    this.#units = Uint32Array.from({ length: length / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.#texts = charsmap.subarray(4 + length);
  }

  normalize(text: string): string {
    return Array.from(graphemes.segment(text), ({ segment }) => {
      const bytes = encoder.encode(segment);
      const whole = bytes.length <= LONGEST_GRAPHEME ? this.#entry(bytes) : undefined;
      return whole ?? Array.from(segment, (one) => this.#entry(encoder.encode(one)) ?? one).join('');
    }).join('');
  }

  /** What takes the place of the shortest beginning of these bytes that has an entry. */
  #entry(bytes: Uint8Array): string | undefined {
    const units = this.#units;
    let at = offsetOf(units[0]);
    for (const byte of bytes) {
      at ^= byte;
      const unit = units.at(at) ?? 0;
      if ((unit & 0x800000ff) !== byte) {
        return undefined;
      }
      at ^= offsetOf(unit);
      if ((unit >>> 8) & 1) {
        const begin = (units.at(at) ?? 0) & 0x7fffffff;
        const end = this.#texts.indexOf(0, begin);
        return decoder.decode(this.#texts.subarray(begin, end < 0 ? undefined : end));
      }
    }
    return undefined;
  }
}

/** From a node to its children. */
function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
