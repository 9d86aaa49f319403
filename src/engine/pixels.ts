/** Turns a decoder's output, in plain arrays, into 8-bit pictures. */
import { StudioError } from '../core/errors.ts';
import type { PixelImage } from '../core/media.ts';
import { EMPTY, NOT_FINITE } from './arithmetic.ts';

/**
 * @param decoded [batch, planes, height, width] around [-1, 1]: colours, and how opaque they are where there are four
 * @throws StudioError `result_invalid` for NaN, infinity, or nothing but zeros
 */
export function toPixels(decoded: Float32Array, [batch, planes, height, width]: readonly number[]): PixelImage[] {
  if (decoded.every((value) => value === 0)) {
    throw new StudioError('result_invalid', EMPTY, { retry: 'same' });
  }
  const plane = height * width;
  const images: PixelImage[] = [];
  for (let n = 0; n < batch; n++) {
    // Uint8ClampedArray clamps, and rounds half to even.
    const data = new Uint8ClampedArray(plane * 4).fill(255);
    for (let c = 0; c < planes; c++) {
      const at = (n * planes + c) * plane;
      for (let i = 0; i < plane; i++) {
        data[i * 4 + c] = Math.fround(Math.fround(Math.fround(finite(decoded[at + i]) * 0.5) + 0.5) * 255);
      }
    }
    images.push({ width, height, data });
  }
  return images;
}

/** Shows a picture on a canvas, at its own size. */
export function paint(canvas: OffscreenCanvas, { width, height, data }: PixelImage): void {
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext('2d')?.putImageData(new ImageData(data.slice(), width, height), 0, 0);
}

/** @throws StudioError `result_invalid` for NaN or infinity in the latents */
export function requireFinite(latents: Float32Array): void {
  latents.forEach(finite);
}

function finite(value: number): number {
  if (!Number.isFinite(value)) {
    throw new StudioError('result_invalid', NOT_FINITE);
  }
  return value;
}
