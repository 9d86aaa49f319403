/** Pictures: 8-bit RGBA, recorded as PNG without loss. */
import { StudioError } from '../core/errors.ts';
import type { PixelImage } from '../core/media.ts';
import { latin1 } from '../formats/bytes.ts';
import { decodePicture, encodePng, pictureSize } from '../formats/picture.ts';
import { isGif, isJpeg, isPng, isWebp } from '../formats/signatures.ts';
import type { Inscription } from '../formats/metadata.ts';
import type { MediaFormat, Medium, SaveChoice } from './medium.ts';

const PNG: MediaFormat = { label: 'PNG', mime: 'image/png', extension: 'png' };
const WEBP: MediaFormat = { label: 'WebP', mime: 'image/webp', extension: 'webp' };
const JPEG: MediaFormat = { label: 'JPEG', mime: 'image/jpeg', extension: 'jpg', aliases: ['jpeg', 'image/jpg'] };
const GIF: MediaFormat = { label: 'GIF', mime: 'image/gif', extension: 'gif' };
const AVIF: MediaFormat = { label: 'AVIF', mime: 'image/avif', extension: 'avif' };

/** Quality of WebP and JPEG: no visible difference at a fifth of a PNG's size. */
const QUALITY = 0.95;

const CHOICES: readonly SaveChoice[] = [PNG, WEBP, JPEG].map((format) => ({
  id: format.extension,
  label: format.label,
  format,
}));

export const medium: Medium<PixelImage> = {
  id: 'image',
  label: { en: 'Picture', de: 'Bild' },
  formats: [PNG, WEBP, JPEG, GIF, AVIF],
  turn: 'own',
  recognise(head) {
    const text = latin1(head.subarray(0, 12));
    return isPng(head)
      ? PNG
      : isJpeg(head)
        ? JPEG
        : isWebp(head)
          ? WEBP
          : isGif(head)
            ? GIF
            : /^ftypavi[fs]/.test(text.slice(4))
              ? AVIF
              : null;
  },
  accepts(value): value is PixelImage {
    const { width, height, data } = (value ?? {}) as Partial<PixelImage>;
    return isSide(width) && isSide(height) && data instanceof Uint8ClampedArray && data.length === 4 * width * height;
  },
  encode: encodePng,
  async warmUp() {
    const picture = { width: 8, height: 8, data: new Uint8ClampedArray(256).fill(255) };
    await inscribe(await encodePng(picture), null);
  },
  decode: (file) => decodePicture(file, 'picture'),
  facts: ({ width, height }) => ({ width, height }),
  measure: (file) => pictureSize(file, 'picture'),
  inscribe,
  readMetadata: async (bytes) => (await import('../formats/container.ts')).readMetadata(bytes),
  saving: {
    choices: () => Promise.resolve(CHOICES),
    async convert(file, choice, inscription) {
      const picture = choice === PNG.extension ? file : await converted(file, choice);
      return { file: await inscribe(picture, inscription), notices: [] };
    },
  },
  preview: (file, { size }) => createImageBitmap(file, { resizeWidth: size, resizeQuality: 'medium' }),
};

async function inscribe(picture: Blob, inscription: Inscription | null): Promise<Blob> {
  return (await import('../formats/container.ts')).inscribe(picture, inscription);
}

function isSide(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

async function converted(png: Blob, choice: string): Promise<Blob> {
  const format = CHOICES.find(({ id }) => id === choice)?.format ?? PNG;
  const bitmap = await createImageBitmap(png);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext('2d')?.drawImage(bitmap, 0, 0);
  bitmap.close();
  const blob = await canvas.convertToBlob({ type: format.mime, quality: QUALITY });
  // Browsers return a PNG for formats they cannot write.
  if (blob.type !== format.mime) {
    throw new StudioError('image_unreadable', `This browser cannot write ${format.label} pictures; save it as PNG.`);
  }
  return blob;
}
