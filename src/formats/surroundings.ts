/** What lies around the white part of a mask, blurred into it. */
import { luma } from '../core/luma.ts';
import type { PixelImage } from '../core/media.ts';
import { pillowBlurred } from '../core/pillow_blur.ts';
import { dividedOut, lay, multipliedIn } from './pillow_alpha.ts';

/** Radii of the blurs that are laid over one another, and how often. */
const LAYERS = [
  [256, 1],
  [64, 1],
  [16, 2],
  [4, 4],
  [2, 2],
  [0, 1],
] as const;

/**
 * Reference: AUTOMATIC1111, modules/masking.py (fill)
 * @param mask of the picture's size: white is filled, grey in part
 */
export function filledFromAround({ width, height, data }: PixelImage, mask: PixelImage): PixelImage {
  const kept = new Uint8ClampedArray(data.length);
  for (let i = 0; i < data.length; i += 4) {
    const alpha = 255 - luma(mask.data, i);
    kept.set(
      [...data.subarray(i, i + 3), 255].map((value) => multipliedIn(value, alpha)),
      i,
    );
  }
  const filled = new Uint8ClampedArray(data.length);
  for (const [radius, times] of LAYERS) {
    const layer = pillowBlurred(kept, { width, height, channels: 4 }, radius);
    for (let i = 0; i < layer.length; i += 4) {
      for (let c = i; c < i + 3; c++) {
        layer[c] = dividedOut(layer[c], layer[i + 3]);
      }
      for (let n = 0; n < times; n++) {
        lay(layer, filled, i);
      }
    }
  }
  for (let i = 3; i < filled.length; i += 4) {
    filled[i] = 255;
  }
  return { width, height, data: filled };
}
