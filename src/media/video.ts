/** Videos: files as they came, read frame by frame where one is shown. */
import type { Video } from '../core/video.ts';
import { latin1 } from '../formats/bytes.ts';
import type { MediaFormat, Medium } from './medium.ts';

const MP4: MediaFormat = {
  label: 'MP4',
  mime: 'video/mp4',
  extension: 'mp4',
  aliases: ['m4v', 'mov', 'video/quicktime'],
};
const WEBM: MediaFormat = { label: 'WebM', mime: 'video/webm', extension: 'webm' };
const MATROSKA: MediaFormat = { label: 'Matroska', mime: 'video/x-matroska', extension: 'mkv' };

export const medium: Medium<Video> = {
  id: 'video',
  label: { en: 'Video', de: 'Video' },
  formats: [MP4, WEBM, MATROSKA],
  // The same containers hold sounds, which their type or name says.
  turn: 'shared',
  recognise(head) {
    const text = latin1(head);
    // A sound and a still picture may say so in their first brand; a Matroska names its codecs.
    if (/^....ftyp(?!M4[AB] |avi[fs]|heic|mif1)/s.test(text)) {
      return MP4;
    }
    return text.startsWith('\x1aE\xdf\xa3') && /V_(VP[89]|AV1|MPEG)/.test(text)
      ? text.includes('webm')
        ? WEBM
        : MATROSKA
      : null;
  },
  accepts(value): value is Video {
    const { file, width, height } = (value ?? {}) as Partial<Video>;
    return file instanceof Blob && typeof width === 'number' && typeof height === 'number';
  },
  encode: ({ file }) => Promise.resolve(file),
  decode: async (file) => (await import('./video/reading.ts')).readVideo(file),
  facts: ({ width, height, seconds }) => ({ width, height, seconds: Number(seconds.toFixed(3)) }),
  inscribe: null,
  readMetadata: null,
  saving: null,
  preview: async (file, { size }) => (await import('./video/reading.ts')).poster(file, size),
};
