/** Pictures with transparent parts, laid on a colour, because checkpoints take no alpha. */
import type { PixelImage } from '../core/media.ts';

/** What shows through where nobody chose a colour. */
export const WHITE = '#ffffff';

export function isOpaque({ data }: PixelImage): boolean {
  for (let i = 3; i < data.length; i += 4) {
    if (data[i] < 255) {
      return false;
    }
  }
  return true;
}

/**
 * The picture over one colour, as Pillow's `Image.alpha_composite` has it within 1/255 (over white: the same). The colour that a fully
 * transparent pixel hides counts for nothing.
 * @param colour "#rrggbb"
 * @returns a new picture, opaque
 */
export function layOn({ width, height, data }: PixelImage, colour: string): PixelImage {
  const below = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
  const out = new Uint8ClampedArray(data.length);
  for (let i = 0; i < data.length; i += 4) {
    const alpha = data[i + 3];
    for (let channel = 0; channel < 3; channel++) {
      out[i + channel] = Math.round((data[i + channel] * alpha + below[channel] * (255 - alpha)) / 255);
    }
    out[i + 3] = 255;
  }
  return { width, height, data: out };
}
