/**
 * SD.Next: an infotext that says `App: SD.Next`. Its own reader is laxer than AUTOMATIC1111's: settings and negative prompt may begin in
 * the middle of a line.
 */
import { ExifTag } from '../exif.ts';
import { parseInfotext, type Infotext } from '../infotext.ts';
import { readingOf } from '../infotext_reading.ts';
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
  const infotext = parseInfotext(text.replace(/\s+Negative prompt:/, '\nNegative prompt:'));
  const { fields } = infotext;
  // The default sampler has no name.
  if (/^default$/i.test(fields.get('Sampler') ?? '')) {
    fields.delete('Sampler');
  }
  return infotext;
}
