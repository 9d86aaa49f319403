/**
 * Sketches to begin with, each a file in `starters/`. The lines up to the first empty one describe it (`// title.de: …`); comments
 * starting with `en:` or `de:` are only shown in that language.
 */
import * as v from 'valibot';
import type { Sketch } from '../../core/media.ts';

export const LOCALES = ['en', 'de'] as const;
export type Locale = (typeof LOCALES)[number];

export interface Starter {
  id: string;
  title: string;
  about: string;
  sketch: Sketch;
}

const Head = v.strictObject({
  language: v.picklist(['p5', 'tonejs']),
  'title.en': v.string(),
  'title.de': v.string(),
  'about.en': v.string(),
  'about.de': v.string(),
});

const files: Record<string, string> = import.meta.glob('./starters/*.js', {
  query: '?raw',
  import: 'default',
  eager: true,
});

export function starters(locale: Locale): Starter[] {
  return Object.entries(files).map(([path, text]) =>
    parseStarter(path.slice('./starters/'.length, -'.js'.length), text, locale),
  );
}

/** @throws ValiError if the first lines are not a starter's */
export function parseStarter(id: string, text: string, locale: Locale): Starter {
  const [first, ...rest] = text.split('\n\n');
  const head = v.parse(
    Head,
    Object.fromEntries([...first.matchAll(/^\/\/ ([\w.]+): (.*)$/gm)].map(([, key, value]) => [key, value])),
  );
  const other = locale === 'en' ? 'de' : 'en';
  const source = rest
    .join('\n\n')
    .split('\n')
    .filter((line) => !line.trimStart().startsWith(`// ${other}: `))
    .map((line) => line.replace(new RegExp(`^(\\s*// )${locale}: `), '$1'))
    .join('\n');
  return {
    id,
    title: head[`title.${locale}`],
    about: head[`about.${locale}`],
    sketch: { language: head.language, source },
  };
}
