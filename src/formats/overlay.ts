/**
 * Pastes the original picture over the result wherever the mask keeps it, since an autoencoder reproduces nothing exactly.
 * Source: diffusers, image_processor.py (VaeImageProcessor.apply_overlay)
 */
import { luma } from '../core/luma.ts';
import type { PixelImage } from '../core/media.ts';
import type { OverlayRequest } from '../core/model.ts';
import { putBack } from '../core/only_masked.ts';
import { resizeLanczos } from '../core/pillow_resize.ts';
import { dividedOut, lay, multipliedIn } from './pillow_alpha.ts';

/**
 * @param images all of one size
 * @returns new pictures, equal to Pillow's to the bit
 */
export function overlay(images: readonly PixelImage[], { picture, mask, region }: OverlayRequest): PixelImage[] {
  if (images.length === 0) {
    return [];
  }
  const { width, height } = region ? picture : images[0];
  const over = resizeLanczos(picture, width, height).data;
  const change = resizeLanczos(mask, width, height).data;
  return images.map((image) => {
    const { data } = region
      ? putBack(picture, resizeLanczos(image, region.width, region.height), region)
      : { data: image.data.slice() };
    const kept = new Uint8Array(4);
    const under = new Uint8ClampedArray(4);
    for (let i = 0; i < data.length; i += 4) {
      const alpha = 255 - luma(change, i);
      if (alpha > 0) {
        // Pillow multiplies the alpha in when it pastes through the mask, and divides it out again before it composes.
        for (let c = 0; c < 3; c++) {
          kept[c] = dividedOut(multipliedIn(over[i + c], alpha), alpha);
          under[c] = data[i + c];
        }
        kept[3] = alpha;
        under[3] = 255;
        lay(kept, under, 0);
        data.set(under.subarray(0, 3), i);
      }
    }
    return { width, height, data };
  });
}
