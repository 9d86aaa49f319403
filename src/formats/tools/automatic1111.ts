/**
 * AUTOMATIC1111's web UI, Forge, stable-diffusion.cpp, and whoever else writes their infotext and does not say so. Also what their option hides in the
 * pixels, which arrives here as `parameters`.
 */
import { ExifTag } from '../exif.ts';
import { parseInfotext } from '../infotext.ts';
import { readingOf } from '../infotext_reading.ts';
import type { Tool } from '../reading.ts';

export const tool: Tool = {
  name: 'AUTOMATIC1111',
  turn: 'shared',
  read({ texts, exif, comment }) {
    const candidates = [texts.get('parameters'), exif.get(ExifTag.userComment), texts.get('postprocessing'), comment];
    for (const text of candidates) {
      const infotext = parseInfotext(text ?? '');
      const reading = looksMade(infotext.fields)
        ? readingOf(infotext, writer(infotext.fields.get('Version') ?? ''))
        : null;
      if (reading) {
        return reading;
      }
    }
    return null;
  },
};

function writer(version: string): string {
  // Forge: a letter and a commit, f2.0.1v1.10.1-previous-664-gd557aef9.
  return /^(f\d|neo)/.test(version)
    ? 'Forge'
    : /^stable-diffusion\.cpp/.test(version)
      ? 'stable-diffusion.cpp'
      : 'AUTOMATIC1111';
}

/** Camera makers, too, put comments of pairs into pictures. */
function looksMade(fields: ReadonlyMap<string, string>): boolean {
  return ['Steps', 'Sampler', 'CFG scale', 'Seed', 'Size-1'].filter((key) => fields.has(key)).length >= 2;
}
