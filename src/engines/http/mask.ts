import { StudioError } from '../../core/errors.ts';
import { decodePicture, encodePng } from '../../formats/picture.ts';

/**
 * A mask as OpenAI wants it: transparent where ours is white.
 * @param first the picture that it covers
 * @throws StudioError `invalid_operation` where their sizes differ, `image_unreadable`
 */
export async function transparentMask(mask: Blob, first: Blob): Promise<Blob> {
  const [{ width, height, data }, covered] = await Promise.all([
    decodePicture(mask, 'mask_image'),
    decodePicture(first, 'picture'),
  ]);
  if (width !== covered.width || height !== covered.height) {
    throw new StudioError(
      'invalid_operation',
      `mask_image is ${width}×${height} and the first picture ${covered.width}×${covered.height}; make them the same size.`,
    );
  }
  const made = new Uint8ClampedArray(data.length);
  for (let at = 0; at < data.length; at += 4) {
    made[at + 3] = 255 - (data[at] + data[at + 1] + data[at + 2]) / 3;
  }
  return encodePng({ width, height, data: made });
}
