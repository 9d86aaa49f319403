/**
 * AUTOMATIC1111's web UI and Forge, and whoever else writes their infotext and does not say so. Also what their option hides in the
 * pixels, which arrives here as `parameters`.
 */
import { ExifTag } from '../exif.ts';
import { parseInfotext, readingOf } from '../infotext.ts';
import type { Tool } from '../reading.ts';

export const tool: Tool = {
  name: 'AUTOMATIC1111',
  turn: 'shared',
  read({ texts, exif, comment }) {
    const candidates = [texts.get('parameters'), exif.get(ExifTag.userComment), texts.get('postprocessing'), comment];
    for (const text of candidates) {
      const infotext = parseInfotext(text ?? '');
      // A letter and a commit: f2.0.1v1.10.1-previous-664-gd557aef9.
      const isForge = /^f\d/.test(infotext.fields.get('Version') ?? '');
      const reading = looksMade(infotext.fields) ? readingOf(infotext, isForge ? 'Forge' : 'AUTOMATIC1111') : null;
      if (reading) {
        return reading;
      }
    }
    return null;
  },
};

/** Camera makers, too, put comments of pairs into pictures. */
function looksMade(fields: ReadonlyMap<string, string>): boolean {
  return ['Steps', 'Sampler', 'CFG scale', 'Seed', 'Size-1'].filter((key) => fields.has(key)).length >= 2;
}
