/** A mask before it is used: made larger or smaller, and its edge made soft. */
import { luma } from './luma.ts';
import type { MaskRequest } from './mask_parameters.ts';
import type { PixelImage } from './media.ts';
import { pillowBlurred } from './pillow_blur.ts';

/**
 * First it grows, as by ComfyUI's GrowMask with tapered corners (scipy's grey dilation and erosion by a cross, once for each pixel), then its
 * edge is blurred as by diffusers' `mask_processor.blur` (Pillow's GaussianBlur).
 * @returns grey, in R, G and B; the mask itself where nothing is asked
 */
export function shapedMask(
  mask: PixelImage,
  { mask_grow: grow = 0, mask_feather: radius = 0 }: MaskRequest,
): PixelImage {
  if (grow === 0 && radius === 0) {
    return mask;
  }
  const { width, height } = mask;
  const greys = grown(greysOf(mask), width, height, grow);
  const soft = pillowBlurred(greys, { width, height, channels: 1 }, radius);
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  soft.forEach((grey, i) => data.fill(grey, 4 * i, 4 * i + 3));
  return { width, height, data };
}

export function greysOf({ width, height, data }: PixelImage): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: width * height }, (_, i) => luma(data, 4 * i));
}

function grown(greys: Uint8Array<ArrayBuffer>, width: number, height: number, pixels: number): Uint8Array<ArrayBuffer> {
  const pick = pixels > 0 ? Math.max : Math.min;
  let from = greys;
  let to = new Uint8Array(greys.length);
  for (let n = 0; n < Math.abs(pixels); n++) {
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        let value = from[i];
        value = x > 0 ? pick(value, from[i - 1]) : value;
        value = x < width - 1 ? pick(value, from[i + 1]) : value;
        value = y > 0 ? pick(value, from[i - width]) : value;
        to[i] = y < height - 1 ? pick(value, from[i + width]) : value;
      }
    }
    [from, to] = [to, from];
  }
  return from;
}
