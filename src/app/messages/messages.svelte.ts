/** The page's texts in the person's language. The English ones are in the sources; translations are fetched on demand. */
import type { Sentences } from './sentences.ts';
import { fill } from './template.ts';
import type { Catalogue, Places } from './template.ts';

/** Each language by its own name. */
export const LANGUAGES = { en: 'English', de: 'Deutsch' } as const;
export type Language = keyof typeof LANGUAGES;

const KEY = 'darkroom.language';
/** Days before months, as everywhere on this page. */
const DATES = { en: 'en-GB', de: 'de-DE' };

const CATALOGUES: Record<Exclude<Language, 'en'>, () => Promise<{ page: Catalogue; told: Catalogue }>> = {
  de: () => import('./de/german.ts'),
};

interface Words {
  page: Catalogue;
  told: Sentences;
}

/** The page's language. `public/theme.js` applies the stored choice, or else the browser's, before the first paint. */
class LanguageChoice {
  #current = $state<Language>('en');
  /** Null for English, which is in the sources. */
  #words = $state.raw<Words | null>(null);
  /** Whether the language requested last could not be fetched. */
  isMissing = $state(false);
  #asked = 0;

  /** Fetches the language the document was opened in. Until then, and if that fails, the page is in English. */
  start(): Promise<void> {
    return this.#speak(document.documentElement.lang === 'de' ? 'de' : 'en');
  }

  get current(): Language {
    return this.#current;
  }

  get words(): Words | null {
    return this.#words;
  }

  async choose(language: Language): Promise<void> {
    await this.#speak(language);
    if (this.#current === language) {
      try {
        localStorage.setItem(KEY, language);
      } catch {
        // Storage is blocked: the choice only lasts as long as the page.
      }
    }
  }

  async #speak(language: Language): Promise<void> {
    this.#asked += 1;
    const asked = this.#asked;
    this.isMissing = false;
    const words = await wordsOf(language).catch(() => undefined);
    if (asked !== this.#asked) {
      return;
    }
    this.isMissing = words === undefined;
    if (words !== undefined) {
      this.#words = words;
      this.#current = language;
    }
    document.documentElement.lang = this.#current;
  }
}

async function wordsOf(language: Language): Promise<Words | null> {
  if (language === 'en') {
    return null;
  }
  const [{ page, told }, { Sentences }] = await Promise.all([CATALOGUES[language](), import('./sentences.ts')]);
  return { page, told: new Sentences({ ...page, ...told }, language) };
}

export const language = new LanguageChoice();

/**
 * A text of the page in the person's language.
 * @param text the full, literal English text, which is its own key: `t('Move number {n} up', { n: 3 })`. A plural has two forms: `t('{n}
 * picture|{n} pictures', { n })`. If one English text has two meanings, a suffix `@` and a word tells them apart: `t('Open@state')`.
 */
export function t<Text extends string>(
  text: Text,
  ...[values]: [Places<Text>] extends [never] ? [] : [Readonly<Record<Places<Text>, string | number>>]
): string {
  const words = language.words?.page;
  const own = words && Object.hasOwn(words, text) ? words[text] : text.replace(/@\w+$/, '');
  return fill(own, values ?? {}, language.current);
}

/** Translates a finished English sentence, such as an error's message; unchanged if there is no translation. */
export function said(sentence: string): string {
  return language.words?.told.translate(sentence) ?? sentence;
}

/** The right text of a file with both languages, such as a chunk's labels. */
export function ofLanguage(texts: Readonly<Record<Language, string>>): string {
  return texts[language.current];
}

/** A label inside a sentence: German keeps the capitals of its nouns. */
export function inSentence(label: string): string {
  return language.current === 'en' ? label.toLowerCase() : label;
}

export function number(value: number, options?: Intl.NumberFormatOptions): string {
  return value.toLocaleString(language.current, options);
}

/** @param time in milliseconds since 1970 */
export function date(time: number, options: Intl.DateTimeFormatOptions): string {
  return new Intl.DateTimeFormat(DATES[language.current], options).format(time);
}
