/** Pictures: 8-bit RGBA, recorded as PNG without loss. */
import type { PixelImage } from '../core/media.ts';
import { inscribe, readMetadata } from '../formats/container.ts';
import { decodePicture, encodePng } from '../formats/picture.ts';
import { isPng } from '../formats/png.ts';
import type { Medium } from './medium.ts';

const PNG = { mime: 'image/png', extension: 'png' };

export const medium: Medium<PixelImage> = {
  id: 'image',
  label: { en: 'Picture', de: 'Bild' },
  formats: [PNG],
  recognise: (head) => (isPng(new Uint8Array(head)) ? PNG : null),
  accepts: (value): value is PixelImage => (value as PixelImage | null)?.data instanceof Uint8ClampedArray,
  encode: encodePng,
  decode: (file) => decodePicture(file, 'picture'),
  facts: ({ width, height }) => ({ width, height }),
  inscribe,
  readMetadata,
};
