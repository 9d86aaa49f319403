import { StudioError } from '../../core/errors.ts';
import type { Sketch } from '../../core/media.ts';
import { extractSketch, languageOf } from '../../core/sketch.ts';

/** No handwritten sketch is longer; libraries and bundles are. */
const LONGEST = 500_000;

/**
 * The sketch in a file: JavaScript as it is, or an HTML page's scripts.
 * @throws StudioError `invalid_operation` if there is none
 */
export async function readSketch(file: File): Promise<Sketch> {
  if (file.size > LONGEST) {
    throw new StudioError(
      'invalid_operation',
      `"${file.name}" is longer than any sketch; open a .js or .html file of one.`,
    );
  }
  const text = (await file.text()).replace(/\r\n?/g, '\n');
  if (text.includes('\0') || text.trim() === '') {
    throw new StudioError('invalid_operation', `"${file.name}" holds no code; open a .js or .html file of a sketch.`);
  }
  if (/\.html?$/i.test(file.name) || /^\s*</.test(text)) {
    const found = extractSketch(text);
    if (!found) {
      throw new StudioError(
        'invalid_operation',
        `The page "${file.name}" has no script in it; if it names one beside it, open that .js file.`,
      );
    }
    return found.sketch;
  }
  return { language: languageOf(text), source: text };
}

/** A file name from a title. */
export function fileStem(title: string): string {
  return (
    title
      .toLowerCase()
      .normalize('NFKD')
      .replace(/[^a-z0-9]+/g, '_')
      .replace(/^_+|_+$/g, '') || 'sketch'
  );
}
