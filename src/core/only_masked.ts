/** The part of a picture around what a mask changes, to be painted by itself and put back. */
import { StudioError } from './errors.ts';
import { greysOf } from './mask_shape.ts';
import type { PixelImage, Region } from './media.ts';

/** Shapes whose ratio differs by less, as a logarithm, are stretched into one another. */
export const SAME_SHAPE = 0.02;

/**
 * What is white at all, with `padding` pixels around it, in the shape of the size that is painted. It lies outside the picture only where
 * that has no room for the shape.
 * Reference: diffusers, image_processor.py (VaeImageProcessor.get_crop_region, _resize_and_fill)
 * @throws StudioError `invalid_operation` for a mask that changes nothing
 */
export function maskedRegion(mask: PixelImage, size: { width: number; height: number }, padding: number): Region {
  const { width, height } = mask;
  const greys = greysOf(mask);
  let [left, top, right, bottom] = [width, height, 0, 0];
  greys.forEach((grey, i) => {
    if (grey > 0) {
      const [x, y] = [i % width, Math.floor(i / width)];
      [left, top] = [Math.min(left, x), Math.min(top, y)];
      [right, bottom] = [Math.max(right, x + 1), Math.max(bottom, y + 1)];
    }
  });
  if (right === 0) {
    throw new StudioError(
      'invalid_operation',
      'The mask is black everywhere, so there is nothing to paint; make white what is to change.',
    );
  }
  const shape = size.width / size.height;
  let [x, y] = [Math.max(left - padding, 0), Math.max(top - padding, 0)];
  let [w, h] = [Math.min(right + padding, width) - x, Math.min(bottom + padding, height) - y];
  if (w / h > shape) {
    [y, h] = widened(y, h, Math.trunc(w / shape), height);
  } else {
    [x, w] = widened(x, w, Math.trunc(h * shape), width);
  }
  if (Math.abs(Math.log(w / h / shape)) <= SAME_SHAPE) {
    return { x, y, width: w, height: h };
  }
  const [wide, high] = [Math.max(w, Math.round(h * shape)), Math.max(h, Math.round(w / shape))];
  return { x: x - ((wide - w) >> 1), y: y - ((high - h) >> 1), width: wide, height: high };
}

/** One side made longer in both directions, moved and cut to stay inside. */
function widened(start: number, length: number, wanted: number, whole: number): [start: number, length: number] {
  const from = start - ((wanted - length) >> 1);
  const inside = Math.max(0, Math.min(from, whole - wanted));
  return [inside, Math.min(wanted, whole - inside)];
}

export function cropped({ width, height, data }: PixelImage, region: Region): PixelImage {
  const out = new Uint8ClampedArray(region.width * region.height * 4);
  for (let y = 0; y < region.height; y++) {
    const row = Math.min(Math.max(region.y + y, 0), height - 1);
    for (let x = 0; x < region.width; x++) {
      const from = (row * width + Math.min(Math.max(region.x + x, 0), width - 1)) * 4;
      out.set(data.subarray(from, from + 4), (y * region.width + x) * 4);
    }
  }
  return { width: region.width, height: region.height, data: out };
}

/**
 * Puts a painted part back.
 * @param part of the region's size
 * @returns a new picture
 */
export function putBack(picture: PixelImage, part: PixelImage, region: Region): PixelImage {
  const { width, height } = picture;
  const data = picture.data.slice();
  const [left, right] = [Math.max(0, region.x), Math.min(width, region.x + region.width)];
  for (let y = Math.max(0, region.y); y < Math.min(height, region.y + region.height); y++) {
    const from = ((y - region.y) * region.width + left - region.x) * 4;
    data.set(part.data.subarray(from, from + (right - left) * 4), (y * width + left) * 4);
  }
  return { width, height, data };
}
