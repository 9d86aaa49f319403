/**
 * CLIP's tokenizer: prompt → 77 token ids, from the checkpoint's own files. `@huggingface/tokenizers` does the byte-pair encoding; if a
 * checkpoint only has the original `vocab.json` and `merges.txt`, its definition is assembled like in transformers' CLIPTokenizer
 * (transformers/models/clip/tokenization_clip.py).
 */
import { Tokenizer } from '@huggingface/tokenizers';
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import { readTokenizerJson } from './tokenizer_json.ts';

/** Text files of a checkpoint's `tokenizer` folder, by name; undefined if missing. */
export interface TokenizerFiles {
  read(name: string): string | undefined;
}

export interface Encoded {
  /** Exactly as many as the encoder takes (77): begin, text, end, padding. */
  ids: Int32Array<ArrayBuffer>;
  /** Tokens of the whole prompt, begin and end included. */
  tokens: number;
  /** How many of them are in `ids`. */
  kept: number;
  /** What is in `ids`, without begin, end and padding, as the tokenizer spells it. */
  text: string;
  /** The end of the prompt that did not fit, as the tokenizer spells it; empty if everything did. */
  cutText: string;
}

const STANDARD_LENGTH = 77;

const token = v.union([v.string(), v.looseObject({ content: v.string(), normalized: v.optional(v.boolean(), false) })]);
const specials = {
  bos_token: v.nullish(token),
  eos_token: v.nullish(token),
  unk_token: v.nullish(token),
  pad_token: v.nullish(token),
};
const specialsSchema = v.looseObject(specials);
const configSchema = v.looseObject({ ...specials, model_max_length: v.nullish(v.number()) });

// Not v.record: that drops the keys "constructor" and "prototype", which are words like any other here.
const vocabSchema = v.custom<Record<string, number>>(
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((id) => Number.isSafeInteger(id) && id >= 0),
);
const addedSchema = v.looseObject({ id: v.number(), content: v.string() });
const stageSchema = v.looseObject({ type: v.string() });
type Stage = v.InferOutput<typeof stageSchema>;
const definitionSchema = v.looseObject({
  model: v.looseObject({ type: v.literal('BPE'), vocab: vocabSchema }),
  added_tokens: v.optional(v.array(addedSchema), () => []),
  normalizer: v.nullish(stageSchema),
  pre_tokenizer: v.nullish(stageSchema),
});
type Definition = v.InferOutput<typeof definitionSchema>;

interface Special {
  content: string;
  normalized: boolean;
}

export class ClipTokenizer {
  /** Number of ids in every result. */
  readonly length: number;
  readonly #tokenizer: Tokenizer;
  readonly #begin: number;
  readonly #end: number;
  readonly #pad: number;

  /**
   * @throws StudioError `checkpoint_incomplete` if a file is missing, `checkpoint_damaged` if one is not what it should be
   */
  constructor(files: TokenizerFiles) {
    const config = readTokenizerJson(files, 'tokenizer_config.json', configSchema) ?? {};
    const map = readTokenizerJson(files, 'special_tokens_map.json', specialsSchema) ?? {};
    // Like transformers: the older file wins unless the config already has the newer form of the same facts.
    const declared = 'added_tokens_decoder' in config ? { ...map, ...defined(config) } : { ...config, ...defined(map) };
    const begin = special(declared.bos_token, '<|startoftext|>');
    const end = special(declared.eos_token, '<|endoftext|>');
    const unknown = special(declared.unk_token, '<|endoftext|>');
    const pad = special(declared.pad_token, '<|endoftext|>');

    const definition =
      readTokenizerJson(files, 'tokenizer.json', definitionSchema) ?? originalDefinition(files, begin, end, unknown);
    for (const each of new Map([begin, end, unknown, pad].map((entry) => [entry.content, entry])).values()) {
      if (!definition.added_tokens.some(({ content }) => content === each.content)) {
        const id = idOf(definition, each.content);
        const rules = { single_word: false, lstrip: false, rstrip: false, special: true };
        definition.added_tokens.push({ id, ...each, ...rules });
      }
    }

    try {
      this.#tokenizer = new Tokenizer(repaired(definition), {});
    } catch (cause) {
      throw new StudioError(
        'checkpoint_damaged',
        'The tokenizer of this checkpoint cannot be read; get its files again.',
        {
          cause,
        },
      );
    }
    this.#begin = idOf(definition, begin.content);
    this.#end = idOf(definition, end.content);
    this.#pad = idOf(definition, pad.content);
    // Configs without a limit say 10^30.
    const limit = config.model_max_length ?? STANDARD_LENGTH;
    this.length = limit >= 2 && limit <= 4096 ? Math.trunc(limit) : STANDARD_LENGTH;
  }

  encode(prompt: string): Encoded {
    const all = this.#tokenizer.encode(prompt).ids;
    const ids = new Int32Array(this.length).fill(this.#pad);
    if (all.length <= this.length) {
      ids.set(all);
      return { ids, tokens: all.length, kept: all.length, text: this.#spell(all.slice(1, -1)), cutText: '' };
    }
    ids.set(all.slice(0, this.length - 1));
    ids[this.length - 1] = this.#end;
    const [text, cutText] = [all.slice(1, this.length - 1), all.slice(this.length - 1, -1)].map((part) =>
      this.#spell(part),
    );
    return { ids, tokens: all.length, kept: this.length, text, cutText };
  }

  /** Ids of a text alone, of any length. */
  tokens(text: string): number[] {
    return this.#tokenizer.encode(text).ids.slice(1, -1);
  }

  /** One row for the encoder: begin, at most {@link length} − 2 ids, end, padding. */
  row(ids: readonly number[]): Int32Array<ArrayBuffer> {
    const row = new Int32Array(this.length).fill(this.#pad);
    row.set([this.#begin, ...ids, this.#end]);
    return row;
  }

  /** The text as the tokenizer understands it. */
  spell(text: string): string {
    return this.#spell(this.tokens(text));
  }

  #spell(ids: number[]): string {
    return ids.length === 0 ? '' : this.#tokenizer.decode(ids, { clean_up_tokenization_spaces: false }).trim();
  }
}

/** The definition transformers builds from the two original files. */
function originalDefinition(files: TokenizerFiles, begin: Special, end: Special, unknown: Special): Definition {
  const vocab = readTokenizerJson(files, 'vocab.json', vocabSchema);
  const merges = files.read('merges.txt');
  if (vocab === undefined || merges === undefined) {
    throw new StudioError(
      'checkpoint_incomplete',
      `This checkpoint lacks tokenizer/${vocab === undefined ? 'vocab.json' : 'merges.txt'} (and has no tokenizer/tokenizer.json); add the missing file.`,
    );
  }
  const model = {
    type: 'BPE' as const,
    vocab,
    merges: mergeRules(merges),
    unk_token: unknown.content,
    continuing_subword_prefix: '',
    end_of_word_suffix: '</w>',
    fuse_unk: false,
  };
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const words = "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
  const definition = {
    model,
    added_tokens: [],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'NFC' },
        { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' },
        { type: 'Lowercase' },
      ],
    },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [{ type: 'Split', pattern: { Regex: words }, behavior: 'Removed', invert: true }, byteLevel],
    },
    decoder: { ...byteLevel, add_prefix_space: true },
  };
  const mark = ({ content }: Special) => [content, idOf(definition, content)];
  const frame = { type: 'RobertaProcessing', cls: mark(begin), sep: mark(end), trim_offsets: false };
  return { ...definition, post_processor: { ...frame, add_prefix_space: false } };
}

/** One rule per line: the two parts, separated by a space. The first line may be a version mark. */
function mergeRules(text: string): [string, string][] {
  const lines = text.split(/\r?\n/).filter((line) => line !== '' && !line.startsWith('#version'));
  return lines.map((line, i) => {
    const [left, right, ...more] = line.split(' ');
    if (!left || !right || more.length > 0) {
      throw damaged('merges.txt', `has no pair in rule ${i + 1}`);
    }
    return [left, right];
  });
}

/**
 * The definition with two steps added, where JavaScript's idea of Unicode differs from the reference's (Rust):
 * lowercase of a Σ at the end of a word is ς here but σ there, so Σ is replaced first; and `\s` includes U+FEFF here but not
 * there, so the split that ByteLevel would do is spelled out (the library translates `\s` only in explicit patterns).
 */
function repaired(definition: Definition): object {
  const sigma = { type: 'Replace', pattern: { String: 'Σ' }, content: 'σ' };
  const words = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
  const split = { type: 'Split', pattern: { Regex: words }, behavior: 'Removed', invert: true };
  return {
    ...definition,
    normalizer: sequence(definition.normalizer, 'normalizers', (step) =>
      step.type === 'Lowercase' ? [sigma, step] : [step],
    ),
    pre_tokenizer: sequence(definition.pre_tokenizer, 'pretokenizers', (step) =>
      step.type === 'ByteLevel' && step.add_prefix_space === false && step.use_regex !== false
        ? [split, { ...step, use_regex: false }]
        : [step],
    ),
  };
}

/** A stage of the definition (one step, or a sequence of them under `key`) with each step replaced. */
function sequence(stage: Stage | null | undefined, key: string, replace: (step: Stage) => Stage[]): Stage | null {
  if (!stage) {
    return null;
  }
  const steps = stage.type === 'Sequence' ? v.parse(v.array(stageSchema), stage[key]) : [stage];
  return { type: 'Sequence', [key]: steps.flatMap(replace) };
}

function special(declared: v.InferOutput<typeof token> | null | undefined, standard: string): Special {
  if (typeof declared === 'object' && declared !== null) {
    return { content: declared.content, normalized: declared.normalized };
  }
  return { content: declared ?? standard, normalized: false };
}

function idOf(definition: Pick<Definition, 'added_tokens' | 'model'>, content: string): number {
  const added = definition.added_tokens.find((entry) => entry.content === content)?.id;
  const { vocab } = definition.model;
  const id = added ?? (Object.hasOwn(vocab, content) ? vocab[content] : undefined);
  if (id === undefined) {
    throw damaged('vocab.json or tokenizer.json', `lacks the token ${content}`);
  }
  return id;
}

function damaged(name: string, what: string): StudioError {
  return new StudioError('checkpoint_damaged', `The file tokenizer/${name} of this checkpoint ${what}; get it again.`);
}

/** Entries that are not null or undefined. */
function defined<T extends object>(entries: T): Partial<T> {
  return Object.fromEntries(
    Object.entries(entries).filter(([, value]) => value !== null && value !== undefined),
  ) as Partial<T>;
}
