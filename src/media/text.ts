/** Text: UTF-8 files. */
import { StudioError } from '../core/errors.ts';
import type { MediaFormat, Medium } from './medium.ts';
import { drawText } from './preview/canvas.ts';

const TEXT: MediaFormat = { label: 'Text', mime: 'text/plain', extension: 'txt', aliases: ['text'] };
const MARKDOWN: MediaFormat = { label: 'Markdown', mime: 'text/markdown', extension: 'md' };

export const medium: Medium<string> = {
  id: 'text',
  label: { en: 'Text', de: 'Text' },
  formats: [TEXT, MARKDOWN],
  turn: 'shared',
  /** Any UTF-8 without control characters. */
  recognise: (head) => (head.length > 0 && isProse(head) ? TEXT : null),
  accepts: (value): value is string => typeof value === 'string',
  encode: (text) => Promise.resolve(new Blob([text], { type: TEXT.mime })),
  decode: async (file) => readText(file),
  facts: (text) => ({ characters: [...text].length, words: text.split(/\s+/).filter((word) => word !== '').length }),
  inscribe: null,
  readMetadata: null,
  saving: null,
  preview: async (file, look) => drawText(await readText(file), look),
};

/** @throws StudioError `media_unreadable` for bytes that are not UTF-8 */
export async function readText(file: Blob): Promise<string> {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(await file.arrayBuffer());
  } catch (cause) {
    throw new StudioError(
      'media_unreadable',
      'This text cannot be read, because it is not written in UTF-8; save it as UTF-8 in the program it comes from.',
      { cause },
    );
  }
}

function isProse(head: Uint8Array): boolean {
  try {
    // The last character may be cut.
    const text = new TextDecoder('utf-8', { fatal: true }).decode(head, { stream: true });
    return !/[^\P{Cc}\t\n\v\f\r]/u.test(text);
  } catch {
    return false;
  }
}
