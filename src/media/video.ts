/** Videos: files as they were written or came, read frame by frame where one is shown. */
import type { Video } from '../core/video.ts';
import { latin1 } from '../formats/bytes.ts';
import type { Inscription } from '../formats/metadata.ts';
import type { MediaFormat, Medium, SaveChoice, Saved } from './medium.ts';

const MP4: MediaFormat = {
  label: 'MP4',
  mime: 'video/mp4',
  extension: 'mp4',
  aliases: ['m4v', 'mov', 'video/quicktime'],
};
const WEBM: MediaFormat = { label: 'WebM', mime: 'video/webm', extension: 'webm' };
const MATROSKA: MediaFormat = { label: 'Matroska', mime: 'video/x-matroska', extension: 'mkv' };

/** What is written where a browser encodes no video: a picture for each frame. */
const FRAMES: MediaFormat = { label: 'ZIP of PNG', mime: 'application/zip', extension: 'zip' };

export const medium: Medium<Video> = {
  id: 'video',
  label: { en: 'Video', de: 'Video' },
  formats: [MP4, WEBM, MATROSKA, FRAMES],
  // The same containers hold sounds, which their type or name says.
  turn: 'shared',
  recognise(head) {
    const text = latin1(head);
    // A sound and a still picture may say so in their first brand; a Matroska names its codecs.
    if (/^....ftyp(?!M4[AB] |avi[fs]|heic|mif1)/s.test(text)) {
      return MP4;
    }
    // The header of its first file, and its name.
    if (text.startsWith('PK\x03\x04') && text.startsWith('frame_', 30)) {
      return FRAMES;
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
  facts: ({ width, height, seconds, frames }) => ({
    width,
    height,
    seconds: Number(seconds.toFixed(3)),
    ...(frames !== undefined && { frames }),
  }),
  inscribe,
  readMetadata: async (bytes) => (await import('../formats/media/tags.ts')).readMediaMetadata(bytes),
  saving: {
    async choices(file) {
      return [recorded(file), ...(await (await moving()).animations())];
    },
    convert,
  },
  beginning: async (file, share) => (await import('./video/shortening.ts')).beginningOf(file, share),
  keepsOrigin: true,
  moves: true,
  preview: async (file, { size }) => (await import('./video/reading.ts')).poster(file, size),
};

function moving() {
  return import('./video/animation.ts');
}

function recorded({ type }: Blob): SaveChoice {
  const format = medium.formats.find(({ mime }) => mime === type) ?? MP4;
  return { id: format.extension, label: format.label, format };
}

async function convert(file: Blob, choice: string, inscription: Inscription | null): Promise<Saved> {
  const animated = await (await moving()).animated(file, choice, inscription);
  return animated ?? { file: await inscribe(file, inscription), notices: [] };
}

async function inscribe(file: Blob, inscription: Inscription | null): Promise<Blob> {
  return (await import('./video/inscription.ts')).inscribeVideo(file, inscription);
}
