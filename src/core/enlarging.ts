/** Enlarges pictures for a painting that goes on from them. */
import { StudioError } from './errors.ts';
import type { PixelImage } from './media.ts';
import { UPSCALING_TILE, type Upscaler } from './model.ts';

/** The most pixels of an enlarged picture: what can be decoded again. */
const MOST_PIXELS = 64 * 2 ** 20;
/** As often as AUTOMATIC1111 has an upscaler run, until the picture is at least as large as it is to be. */
const MOST_UPSCALINGS = 3;

/** By the network's own factor, as often as that takes; what it becomes too large is scaled down afterwards. */
export async function upscaled(
  upscaler: Upscaler,
  picture: PixelImage,
  { width, signal }: { width: number; signal: AbortSignal },
): Promise<PixelImage> {
  const request = { tile_size: UPSCALING_TILE, signal, onTile: () => undefined };
  let larger = await upscaler.upscale(picture, request);
  for (let n = 1; n < MOST_UPSCALINGS && larger.width > picture.width && larger.width < width; n++) {
    larger = await upscaler.upscale(larger, request);
  }
  return larger;
}

/** @throws StudioError `invalid_operation` for a picture that would be too large */
export function requireUsableSize({ width, height }: { width: number; height: number }): void {
  if (width * height > MOST_PIXELS) {
    throw new StudioError(
      'invalid_operation',
      `A picture of ${width}×${height} pixels is more than can be used; choose a smaller scale or a smaller picture.`,
      { retry: 'smaller' },
    );
  }
}
