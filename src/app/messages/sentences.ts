/** Finds the translation of finished sentences. */
import { fill, PLACE } from './template.ts';
import type { Catalogue } from './template.ts';

/** No sentence is longer, and to look for places in a long text takes long. */
const LONGEST = 2000;

interface Pattern {
  expression: RegExp;
  names: string[];
  translation: string;
}

/**
 * Finds what stands for a finished English sentence, whatever values are in it: workers, stored jobs and other tabs know English only.
 * A value that is a sentence of the catalogue itself is translated with it.
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
      // A text that says more is the better match: "{0}; get it again." fits many sentences.
      .sort(([a], [b]) => literalLength(b) - literalLength(a))
      .map(([text, translation]) => ({
        expression: new RegExp(`^${text.split(PLACE).map(part).join('')}$`, 's'),
        names: [...text.matchAll(PLACE)].map(([, name]) => name),
        translation,
      }));
  }

  /** Null for a sentence that is not in the catalogue. */
  translate(sentence: string): string | null {
    return sentence.length > LONGEST ? null : (this.#whole(sentence) ?? this.#oneByOne(sentence));
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

  /** A sentence, or a list such as "the seed, the size and the mask", or with "or". A single word is a name, or something that was typed, and stays. */
  #value(value: string): string {
    const translate = (text: string) => (text.includes(' ') ? this.translate(text) : null);
    const whole = translate(value);
    if (whole !== null) {
      return whole;
    }
    const items = value.split(/,? (?:and|or) |, /);
    const own = items.map(translate);
    return own.some((one) => one !== null)
      ? new Intl.ListFormat(this.#tag, { type: / or /.test(value) ? 'disjunction' : 'conjunction' }).format(
          own.map((one, index) => one ?? items[index]),
        )
      : value;
  }

  #oneByOne(text: string): string | null {
    const sentences = text.split(/(?<=[.!?]) (?=["A-Z\d])/);
    const own = sentences.map((sentence) => this.#whole(sentence));
    return sentences.length > 1 && own.some((one) => one !== null)
      ? own.map((one, index) => one ?? sentences[index]).join(' ')
      : null;
  }
}

/** `split` gives texts and names of places by turns. */
function part(text: string, index: number): string {
  return index % 2 === 1 ? '(.+?)' : text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function literalLength(text: string): number {
  return text.replace(PLACE, '').length;
}
