/** Translates finished sentences. */
import { fill, PLACE } from './template.ts';
import type { Catalogue } from './template.ts';

/** No sentence is longer, and matching placeholders in a long text is slow. */
const LONGEST = 2000;

interface Pattern {
  expression: RegExp;
  names: string[];
  translation: string;
}

/**
 * Finds the translation of a finished English sentence with any values in it: workers, stored jobs and other tabs only know English.
 * A value that is itself a sentence in the catalogue is translated too.
 */
export class Sentences {
  readonly #catalogue: Catalogue;
  readonly #tag: string;
  readonly #patterns: Pattern[];

  constructor(catalogue: Catalogue, tag: string) {
    this.#catalogue = catalogue;
    this.#tag = tag;
    this.#patterns = Object.entries(catalogue)
      .filter(([text]) => text.includes('{'))
      // The longer text is the better match: "{0}; get it again." fits many sentences.
      .sort(([a], [b]) => literalLength(b) - literalLength(a))
      .map(([text, translation]) => ({
        expression: new RegExp(`^${text.split(PLACE).map(part).join('')}$`, 's'),
        names: [...text.matchAll(PLACE)].map(([, name]) => name),
        translation,
      }));
  }

  /** Null if the sentence is not in the catalogue. */
  translate(sentence: string): string | null {
    if (sentence.length > LONGEST) {
      return null;
    }
    // A placeholder at the end of one sentence would swallow the following sentences.
    const own = Object.hasOwn(this.#catalogue, sentence) ? [] : this.#oneByOne(sentence);
    return own.length > 0 && !own.includes(null)
      ? own.join(' ')
      : (this.#whole(sentence) ?? this.#known(sentence, own));
  }

  #whole(sentence: string): string | null {
    if (Object.hasOwn(this.#catalogue, sentence)) {
      return this.#catalogue[sentence];
    }
    for (const { expression, names, translation } of this.#patterns) {
      const values = expression.exec(sentence)?.slice(1);
      if (values) {
        const own = values.map((value) => this.#value(value));
        return fill(translation, Object.fromEntries(names.map((name, index) => [name, own[index]])), this.#tag);
      }
    }
    return null;
  }

  /** A sentence, or a list such as "the seed, the size and the mask", or with "or". A single word is a name, or was typed, and stays. */
  #value(value: string): string {
    const translate = (text: string) => (text.includes(' ') ? this.translate(text) : null);
    const items = value.split(/,? (?:and|or) |, /);
    const own = items.map(translate);
    // As above: the first item of a list would swallow the others. A name may contain a comma, though.
    const whole = items.length > 1 && !own.includes(null) ? null : translate(value);
    if (whole !== null) {
      return whole;
    }
    return own.some((one) => one !== null)
      ? new Intl.ListFormat(this.#tag, { type: / or /.test(value) ? 'disjunction' : 'conjunction' }).format(
          own.map((one, index) => one ?? items[index]),
        )
      : value;
  }

  /** For several sentences, the translation of each, or null if it has none; empty for a single sentence. */
  #oneByOne(text: string): (string | null)[] {
    const sentences = sentencesOf(text);
    return sentences.length > 1 ? sentences.map((sentence) => this.#whole(sentence)) : [];
  }

  /** The text with as many sentences translated as possible, or null. */
  #known(text: string, own: (string | null)[]): string | null {
    const sentences = sentencesOf(text);
    return own.some((one) => one !== null) ? own.map((one, index) => one ?? sentences[index]).join(' ') : null;
  }
}

function sentencesOf(text: string): string[] {
  return text.split(/(?<=[.!?]) (?=["A-Z\d])/);
}

/** `split` alternates between texts and names of placeholders. */
function part(text: string, index: number): string {
  return index % 2 === 1 ? '(.+?)' : text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function literalLength(text: string): number {
  return text.replace(PLACE, '').length;
}
