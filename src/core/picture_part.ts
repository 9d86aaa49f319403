import type { PixelImage } from './media.ts';

export interface PicturePart {
  /** In pixels, within the picture. */
  left: number;
  top: number;
  width: number;
  height: number;
}

/** A rectangle of a picture, as a picture. */
export function partOf({ width: stride, data }: PixelImage, { left, top, width, height }: PicturePart): PixelImage {
  const part = new Uint8ClampedArray(4 * width * height);
  for (let row = 0; row < height; row++) {
    const from = 4 * ((top + row) * stride + left);
    part.set(data.subarray(from, from + 4 * width), 4 * row * width);
  }
  return { width, height, data: part };
}
