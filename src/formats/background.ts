/** Flattens pictures with transparency onto a colour, because checkpoints take no alpha. */
import type { PixelImage } from '../core/media.ts';

/** The default background. */
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
 * The picture over one colour, within 1/255 of Pillow's `Image.alpha_composite` (identical over white). The hidden colour of fully
 * transparent pixels has no effect.
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

/**
 * The picture with every fully transparent pixel in the colour of the nearest visible one along rows and columns. Anything that looks at
 * neighbours, such as an upscaler, must not see the black a decoder leaves there.
 * @returns a new picture, opaque
 */
export function spreadColours({ width, height, data }: PixelImage): PixelImage {
  const out = new Uint8ClampedArray(data);
  const known = Uint8Array.from({ length: width * height }, (_, i) => (data[4 * i + 3] > 0 ? 1 : 0));
  const take = (i: number, from: number) => {
    if (!known[i] && known[from]) {
      out.copyWithin(4 * i, 4 * from, 4 * from + 3);
      known[i] = 1;
    }
  };
  // Each pass continues from what it has just filled.
  for (let y = 0; y < height; y++) {
    for (let x = 1; x < width; x++) {
      take(y * width + x, y * width + x - 1);
    }
    for (let x = width - 2; x >= 0; x--) {
      take(y * width + x, y * width + x + 1);
    }
  }
  for (let y = 1; y < height; y++) {
    for (let x = 0; x < width; x++) {
      take(y * width + x, (y - 1) * width + x);
    }
  }
  for (let y = height - 2; y >= 0; y--) {
    for (let x = 0; x < width; x++) {
      take(y * width + x, (y + 1) * width + x);
    }
  }
  for (let i = 3; i < out.length; i += 4) {
    out[i] = 255;
  }
  return { width, height, data: out };
}
