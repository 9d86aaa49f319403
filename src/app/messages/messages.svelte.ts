/** A person's words in their language. English stands in the sources; what stands for it in another language is fetched when somebody wants it. */
import type { Sentences } from './sentences.ts';
import { fill } from './template.ts';
import type { Catalogue, Places } from './template.ts';

/** Each as it calls itself. */
export const LANGUAGES = { en: 'English', de: 'Deutsch' } as const;
export type Language = keyof typeof LANGUAGES;

const KEY = 'darkroom.language';
/** Days before months, as everywhere in this page. */
const DATES = { en: 'en-GB', de: 'de-DE' };

const CATALOGUES: Record<Exclude<Language, 'en'>, () => Promise<{ page: Catalogue; told: Catalogue }>> = {
  de: () => import('./de/german.ts'),
};

interface Words {
  page: Catalogue;
  told: Sentences;
}

/** Which language the page speaks. `public/theme.js` applies the kept choice, or else the browser's, before the first paint. */
class LanguageChoice {
  #current = $state<Language>('en');
  /** Null in English, which stands in the sources. */
  #words = $state.raw<Words | null>(null);
  /** Whether the language that was asked for last could not be fetched. */
  isMissing = $state(false);
  #asked = 0;

  /** Fetches the language that the document was opened in. Until then, and where that fails, the page speaks English. */
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
        // Storage is blocked: the choice lasts as long as the page.
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
 * @param text in English, in full and literally, because it is its own key: `t('Move number {n} up', { n: 3 })`. With a plural it has two forms,
 *   `t('{n} picture|{n} pictures', { n })`. Where one English text means two things, `@` and a word at its end tell them apart: `t('Open@state')`.
 */
export function t<Text extends string>(
  text: Text,
  ...[values]: [Places<Text>] extends [never] ? [] : [Readonly<Record<Places<Text>, string | number>>]
): string {
  const words = language.words?.page;
  const own = words && Object.hasOwn(words, text) ? words[text] : text.replace(/@\w+$/, '');
  return fill(own, values ?? {}, language.current);
}

/** A finished sentence in English, such as an error's, in the person's language; as it is where nothing stands for it. */
export function said(sentence: string): string {
  return language.words?.told.translate(sentence) ?? sentence;
}

/** The text of a file that brings both, such as a chunk's labels. */
export function ofLanguage(texts: Readonly<Record<Language, string>>): string {
  return texts[language.current];
}

/** A label as it stands within a sentence: German keeps the capitals of its nouns. */
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
