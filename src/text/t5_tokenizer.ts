/**
 * T5's tokenizer: words cut by a Unigram vocabulary, then an end mark. From `tokenizer.json`, or from SentencePiece's own file where a folder
 * has only that, put together as transformers does it (transformers/models/t5/tokenization_t5.py).
 */
import { PrecompiledNormalizer, SequenceNormalizer, Tokenizer, type Normalizer } from '@huggingface/tokenizers';
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { TokenizerFiles } from './clip_tokenizer.ts';
import { PrecompiledRules } from './precompiled_rules.ts';
import { readSentencePieceFile, type SentencePieceFile } from './sentencepiece_file.ts';
import { readTokenizerJson } from './tokenizer_json.ts';

/** A tokenizer's folder, with `spiece.model` where there is one. */
export interface T5Files extends TokenizerFiles {
  readonly folder: string;
  readonly spiece?: Uint8Array | undefined;
}

export interface T5Tokens {
  /** Those that are read, the end mark included, without padding. */
  ids: Int32Array<ArrayBuffer>;
  /** Of the whole prompt. */
  tokens: number;
  /** What is read of the prompt. */
  text: string;
}

const END = '</s>';
const MARK = '▁';
/** Marks for gaps that T5 was taught with; they take the last ids. */
const GAPS = 100;

const configSchema = v.looseObject({ extra_ids: v.nullish(v.number()) });
const definitionSchema = v.looseObject({
  model: v.looseObject({ type: v.literal('Unigram'), vocab: v.array(v.tuple([v.string(), v.number()])) }),
});
type Definition = v.InferOutput<typeof definitionSchema>;

export class T5Tokenizer {
  /** Fills up what is shorter than the limit. */
  readonly pad = 0;
  readonly #tokenizer: Tokenizer;
  readonly #end: number;

  /**
   * @param limit the most tokens that are read, the end mark included
   * @throws StudioError `checkpoint_incomplete` if both files are missing, `checkpoint_damaged` if one is not what it should be
   */
  constructor(
    files: T5Files,
    readonly limit: number,
  ) {
    const definition =
      readTokenizerJson(files, 'tokenizer.json', definitionSchema, files.folder) ?? ownDefinition(files);
    try {
      this.#tokenizer = new Tokenizer(definition, {});
      this.#tokenizer.normalizer = exact(this.#tokenizer.normalizer);
    } catch (cause) {
      const message = `The tokenizer in ${files.folder} of this checkpoint cannot be read; get its files again.`;
      throw cause instanceof StudioError ? cause : new StudioError('checkpoint_damaged', message, { cause });
    }
    this.#end = this.#tokenizer.token_to_id(END) ?? 1;
  }

  encode(prompt: string): T5Tokens {
    const all = this.#tokenizer.encode(prompt).ids;
    if (all.length <= this.limit) {
      return { ids: Int32Array.from(all), tokens: all.length, text: prompt };
    }
    const read = all.slice(0, this.limit - 1);
    const text = this.#tokenizer.decode(read, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
    return { ids: Int32Array.from([...read, this.#end]), tokens: all.length, text };
  }
}

/** The library approximates the rules that the file carries; these follow them. */
function exact(normalizer: Normalizer | null): Normalizer | null {
  if (normalizer instanceof SequenceNormalizer) {
    normalizer.normalizers = normalizer.normalizers.map(exact);
    return normalizer;
  }
  const charsmap: unknown = normalizer instanceof PrecompiledNormalizer ? normalizer.charsmap : null;
  return typeof charsmap === 'string' ? new PrecompiledRules(bytesOf(charsmap)) : normalizer;
}

function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** The definition that transformers makes of SentencePiece's file. */
function ownDefinition(files: T5Files): Definition {
  if (!files.spiece) {
    throw new StudioError(
      'checkpoint_incomplete',
      `This checkpoint lacks ${files.folder}/tokenizer.json (and has no ${files.folder}/spiece.model); add the missing file.`,
    );
  }
  const gaps = readTokenizerJson(files, 'tokenizer_config.json', configSchema, files.folder)?.extra_ids ?? GAPS;
  return definitionOf(readSentencePieceFile(files.spiece), gaps);
}

function definitionOf({ pieces, unknown, charsmap }: SentencePieceFile, gaps: number): Definition {
  const extra = Array.from({ length: gaps }, (_, n): [string, number] => [`<extra_id_${gaps - 1 - n}>`, 0]);
  const vocab = [...pieces, ...extra];
  const idOf = (piece: string) => vocab.findIndex(([each]) => each === piece);
  const marks = ['<pad>', END, pieces[unknown][0], ...extra.map(([piece]) => piece)];
  const rules = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const metaspace = { type: 'Metaspace', replacement: MARK, prepend_scheme: 'always', split: true };
  const single = [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: END, type_id: 0 } }];
  const base64 = btoa(Array.from(charsmap, (byte) => String.fromCharCode(byte)).join(''));
  return {
    model: { type: 'Unigram', vocab, unk_id: unknown, byte_fallback: false },
    added_tokens: marks.map((content) => ({ id: idOf(content), content, ...rules })).filter(({ id }) => id >= 0),
    normalizer: charsmap.length === 0 ? null : { type: 'Precompiled', precompiled_charsmap: base64 },
    pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'WhitespaceSplit' }, metaspace] },
    post_processor: {
      type: 'TemplateProcessing',
      single,
      pair: [...single, ...single],
      special_tokens: { [END]: { id: END, ids: [idOf(END)], tokens: [END] } },
    },
    decoder: metaspace,
  };
}
