/** Pictures as they leave the page. */
import { StudioError } from '../core/errors.ts';
import { inscribe } from '../formats/container.ts';
import { inscriptionOf, settingsOf } from '../formats/settings.ts';

export type PictureFormat = 'png' | 'webp' | 'jpeg';

export const FORMATS: readonly { id: PictureFormat; label: string; ending: string }[] = [
  { id: 'png', label: 'PNG', ending: 'png' },
  { id: 'webp', label: 'WebP', ending: 'webp' },
  { id: 'jpeg', label: 'JPEG', ending: 'jpg' },
];

/** Of WebP and JPEG: no difference is seen, at a fifth of a PNG's bytes. */
const QUALITY = 0.95;

/**
 * @param png as recorded
 * @param metadata what was recorded beside it, to be written into it; null = the picture leaves with nothing in it
 * @throws StudioError `image_unreadable`, also where the browser cannot write the format
 */
export async function outgoing(
  png: Blob,
  format: PictureFormat,
  metadata: Record<string, unknown> | null,
): Promise<Blob> {
  const settings = metadata && settingsOf(metadata);
  const picture = format === 'png' ? png : await converted(png, format);
  return inscribe(picture, settings && inscriptionOf(settings));
}

async function converted(png: Blob, format: PictureFormat): Promise<Blob> {
  const bitmap = await createImageBitmap(png);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext('2d')?.drawImage(bitmap, 0, 0);
  bitmap.close();
  const type = `image/${format}`;
  const blob = await canvas.convertToBlob({ type, quality: QUALITY });
  // A browser that cannot write a format gives a PNG instead.
  if (blob.type !== type) {
    throw new StudioError('image_unreadable', `This browser cannot write ${format} pictures; save it as PNG.`);
  }
  return blob;
}
