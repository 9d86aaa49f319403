/**
 * Code for the sandbox: JavaScript whose first line names its library. Files without that line, written by other programs, are told apart
 * by the functions they call.
 */
import type { Sketch } from '../core/media.ts';
import { utf8 } from '../formats/bytes.ts';
import type { MediaFormat, Medium } from './medium.ts';
import { drawText } from './preview/canvas.ts';
import { readText } from './text.ts';

const SCRIPT: MediaFormat = {
  label: 'JavaScript',
  mime: 'text/javascript',
  extension: 'js',
  aliases: ['application/javascript', 'application/x-javascript', 'mjs', 'text/ecmascript'],
};

export const LANGUAGES: Readonly<Record<Sketch['language'], string>> = { p5: 'p5.js', tonejs: 'Tone.js' };

const FIRST_LINE = /^\/\/ @language (p5|tonejs)\r?(?:\n|$)/;

export const medium: Medium<Sketch> = {
  id: 'code',
  label: { en: 'Code', de: 'Code' },
  formats: [SCRIPT],
  entities: Object.keys(LANGUAGES),
  turn: 'own',
  recognise: (head) => (FIRST_LINE.test(utf8(head)) ? SCRIPT : null),
  accepts(value): value is Sketch {
    const { language, source } = (value ?? {}) as Partial<Sketch>;
    return language !== undefined && Object.hasOwn(LANGUAGES, language) && typeof source === 'string';
  },
  encode: ({ language, source }) =>
    Promise.resolve(new Blob([`// @language ${language}\n${source}`], { type: SCRIPT.mime })),
  decode: async (file) => readSketch(await readText(file)),
  facts: ({ language, source }) => ({ language, lines: source.split('\n').length }),
  inscribe: null,
  readMetadata: null,
  saving: null,
  async preview(file, look) {
    const { language, source } = readSketch(await readText(file));
    return drawText(source, look, { mono: true, badge: LANGUAGES[language] });
  },
};

function readSketch(text: string): Sketch {
  const match = FIRST_LINE.exec(text);
  if (match) {
    return { language: match[1] as Sketch['language'], source: text.slice(match[0].length) };
  }
  return { language: /\bTone\s*\./.test(text) ? 'tonejs' : 'p5', source: text };
}
