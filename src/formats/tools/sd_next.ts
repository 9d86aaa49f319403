/**
 * SD.Next: an infotext that says `App: SD.Next`. Its own reader is laxer than AUTOMATIC1111's: the settings may begin in the middle
 * of a line, and prompts may stand beside templates.
 */
import { ExifTag } from '../exif.ts';
import { parseInfotext, readingOf, type Infotext } from '../infotext.ts';
import type { Tool } from '../reading.ts';

const NAME = 'SD.Next';
const SIGN = /\bApp: SD\.?Next\b/i;

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts, exif }) {
    const text = texts.get('parameters') ?? exif.get(ExifTag.userComment) ?? '';
    return SIGN.test(text) ? readingOf(parse(text), NAME) : null;
  },
};

function parse(text: string): Infotext {
  const infotext = parseInfotext(withSettingsOnTheirLine(text));
  const { fields } = infotext;
  // The sampler that was not changed has no name.
  if (/^default$/i.test(fields.get('Sampler') ?? '')) {
    fields.delete('Sampler');
  }
  return infotext;
}

function withSettingsOnTheirLine(text: string): string {
  const start = text.lastIndexOf('Steps: ');
  const negative = text.indexOf('Negative prompt:');
  const head = start < 0 ? text : text.slice(0, start);
  const split =
    negative > 0 && negative < head.length
      ? `${head.slice(0, negative).trim()}\n${head.slice(negative).trim()}`
      : head.trim();
  return start < 0 ? split : `${split}\n${text.slice(start).replaceAll('\n', ' ')}`;
}
