/** Sound: planes of 32-bit floats, recorded unchanged as WAV (`audio/wav.ts` says why). */
import { StudioError } from '../core/errors.ts';
import type { Sound } from '../core/media.ts';
import { latin1, viewOf } from '../formats/bytes.ts';
import type { Inscription } from '../formats/metadata.ts';
import { id3Length, isFlac, isId3, isOgg, isWav } from '../formats/signatures.ts';
import type { MediaFormat, Medium, SaveChoice, Saved } from './medium.ts';
import { canvasOf } from './preview/canvas.ts';

const WAV: MediaFormat = {
  label: 'WAV',
  mime: 'audio/wav',
  extension: 'wav',
  aliases: ['audio/x-wav', 'audio/wave', 'audio/vnd.wave', 'wave'],
};
const FLAC: MediaFormat = { label: 'FLAC', mime: 'audio/flac', extension: 'flac', aliases: ['audio/x-flac'] };
const MP3: MediaFormat = { label: 'MP3', mime: 'audio/mpeg', extension: 'mp3', aliases: ['audio/mp3'] };
const OGG: MediaFormat = {
  label: 'Ogg',
  mime: 'audio/ogg',
  extension: 'ogg',
  aliases: ['opus', 'oga', 'audio/opus', 'application/ogg'],
};
const M4A: MediaFormat = {
  label: 'M4A',
  mime: 'audio/mp4',
  extension: 'm4a',
  aliases: ['audio/x-m4a', 'audio/m4a', 'audio/aac', 'm4b', 'aac'],
};
const WEBM: MediaFormat = { label: 'WebM', mime: 'audio/webm', extension: 'weba' };

/** Pixels of a bar in a thumbnail, including its gap. */
const BAR = 6;

const FLOAT_WAV: SaveChoice = { id: 'wav', label: 'WAV', format: WAV };
const INTEGER_WAV: SaveChoice = { id: 'wav_16', label: 'WAV, 16-bit', format: WAV };
const LOSSLESS: SaveChoice = { id: 'flac', label: 'FLAC', format: FLAC };
const ENCODED: Record<'opus' | 'aac', SaveChoice> = {
  opus: { id: 'opus', label: 'Opus', format: OGG },
  aac: { id: 'aac', label: 'AAC', format: M4A },
};

export const medium: Medium<Sound> = {
  id: 'audio',
  label: { en: 'Sound', de: 'Klang' },
  formats: [WAV, FLAC, MP3, OGG, M4A, WEBM],
  turn: 'own',
  recognise(head) {
    const text = latin1(head.subarray(0, 36));
    if (isWav(head)) {
      return WAV;
    }
    const tag = isId3(head) ? id3Length(head) : 0;
    if (isFlac(head.subarray(tag))) {
      return FLAC;
    }
    // An Ogg's first page says if it contains video.
    if (isOgg(head) && !text.includes('theora')) {
      return OGG;
    }
    return /^ftypM4[AB] /.test(text.slice(4)) ? M4A : tag > 0 || isMpegFrame(head) ? MP3 : null;
  },
  accepts(value): value is Sound {
    const { rate, channels } = (value ?? {}) as Partial<Sound>;
    return (
      typeof rate === 'number' &&
      rate > 0 &&
      Array.isArray(channels) &&
      channels.length > 0 &&
      channels.every((plane) => plane instanceof Float32Array && plane.length === channels[0].length)
    );
  },
  async encode(sound) {
    const { checkSamples, writeFloatWav } = await import('./audio/wav.ts');
    checkSamples(sound);
    return writeFloatWav(sound);
  },
  async decode(file) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const sound = isWav(bytes) ? (await import('./audio/wav.ts')).readWav(bytes) : null;
    return sound ?? (await import('./audio/codecs.ts')).decodeSound(file);
  },
  facts: ({ rate, channels }) => ({
    seconds: Number((channels[0].length / rate).toFixed(3)),
    rate,
    channels: channels.length,
  }),
  inscribe,
  readMetadata: async (bytes) => (await import('../formats/media/tags.ts')).readMediaMetadata(bytes),
  saving: {
    async choices() {
      const { encodings } = await import('./audio/codecs.ts');
      return [FLOAT_WAV, INTEGER_WAV, LOSSLESS, ...(await encodings()).map((encoding) => ENCODED[encoding])];
    },
    convert,
  },
  async preview(file, { size, accent, paper }) {
    const [sound, { drawPeaks, peaksOf }] = await Promise.all([medium.decode(file), import('./audio/peaks.ts')]);
    const { canvas, context } = canvasOf(size, size);
    const columns = Math.max(1, Math.floor(size / BAR));
    const peaks = peaksOf(sound, columns);
    drawPeaks(context, peaks, { width: size, height: size }, { played: accent, rest: accent }, 0, BAR / 2);
    context.globalCompositeOperation = 'destination-over';
    context.fillStyle = paper;
    context.fillRect(0, 0, size, size);
    return canvas.transferToImageBitmap();
  },
};

async function convert(file: Blob, choice: string, inscription: Inscription | null): Promise<Saved> {
  if (choice === FLOAT_WAV.id) {
    return { file: await inscribe(file, inscription), notices: [] };
  }
  const sound = await medium.decode(file);
  if (choice === ENCODED.opus.id || choice === ENCODED.aac.id) {
    const { encodeSound } = await import('./audio/codecs.ts');
    return { file: await encodeSound(sound, choice === 'opus' ? 'opus' : 'aac', inscription), notices: [] };
  }
  const { clippingNotice, writeIntegerWav } = await import('./audio/wav.ts');
  const written = choice === LOSSLESS.id ? await flac(sound) : writeIntegerWav(sound);
  return { file: await inscribe(written.file, inscription), notices: clippingNotice(written.clipped, sound) };
}

async function inscribe(file: Blob, inscription: Inscription | null): Promise<Blob> {
  return (await import('./audio/tags.ts')).inscribeSound(file, inscription);
}

async function flac(sound: Sound): Promise<{ file: Blob; clipped: number }> {
  const { MAX_CHANNELS, writeFlac } = await import('./audio/flac.ts');
  if (sound.channels.length > MAX_CHANNELS) {
    throw new StudioError('media_unreadable', `FLAC holds ${MAX_CHANNELS} channels at most; save it as WAV.`);
  }
  return writeFlac(sound);
}

/** The header of an MPEG audio frame of layer III: eleven ones, and no field with a value that is reserved. */
function isMpegFrame(head: Uint8Array): boolean {
  if (head.length < 4) {
    return false;
  }
  const header = viewOf(head).getUint32(0);
  const [version, layer, bitrate, rate] = [
    (header >>> 19) & 3,
    (header >>> 17) & 3,
    (header >>> 12) & 15,
    (header >>> 10) & 3,
  ];
  return header >>> 21 === 0x7ff && version !== 1 && layer === 1 && bitrate !== 0 && bitrate !== 15 && rate !== 3;
}
