/**
 * Pastes the original picture over the result wherever the mask keeps it, since an autoencoder reproduces nothing exactly.
 * Sources: diffusers, image_processor.py (VaeImageProcessor.apply_overlay); Pillow, src/libImaging/{Paste,Convert,AlphaComposite}.c.
 */
import { luma } from '../core/luma.ts';
import type { PixelImage } from '../core/media.ts';
import { resizeLanczos } from './resample.ts';

/** Extra bits of precision that Pillow uses when compositing. */
const PRECISION = 7;

/**
 * @param images all of one size
 * @param original any size, scaled to theirs as for the checkpoint; its alpha is ignored
 * @param mask any size: white keeps `images`, black takes the original, grey mixes
 * @returns new pictures, equal to Pillow's to the bit
 */
export function overlay(images: readonly PixelImage[], original: PixelImage, mask: PixelImage): PixelImage[] {
  if (images.length === 0) {
    return [];
  }
  const { width, height } = images[0];
  const over = resizeLanczos(original, width, height).data;
  const change = resizeLanczos(mask, width, height).data;
  return images.map(({ data }) => {
    const mixed = data.slice();
    for (let i = 0; i < mixed.length; i += 4) {
      const alpha = 255 - luma(change, i);
      if (alpha > 0) {
        for (let c = i; c < i + 3; c++) {
          // Pillow multiplies the alpha in when it pastes through the mask, and divides it out again before it composes.
          const premultiplied = dividedBy255(over[c] * alpha + 128);
          const kept = Math.min(255, Math.floor((255 * premultiplied) / alpha));
          const sum = kept * (alpha << PRECISION) + data[c] * ((255 - alpha) << PRECISION);
          mixed[c] = dividedBy255(sum + (128 << PRECISION)) >> PRECISION;
        }
      }
    }
    return { width, height, data: mixed };
  });
}

function dividedBy255(value: number): number {
  return ((value >> 8) + value) >> 8;
}
