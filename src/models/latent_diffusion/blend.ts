/** What a mask keeps of a picture, in the form the sampling loop blends in at every step. */
import type { PixelImage } from '../../core/media.ts';
import { elements, type Arithmetic, type DeviceTensor } from '../../engine/arithmetic.ts';
import { maskToTensor } from '../../formats/resample.ts';

/**
 * @param mask white = change, black = keep; any size
 * @param size of the result, in pixels
 * @param image and
 * @param noise as latents
 * @returns image | noise | mask, each the size of the latents
 */
export function blendOf(
  arithmetic: Arithmetic,
  mask: PixelImage,
  size: { width: number; height: number },
  image: DeviceTensor,
  noise: DeviceTensor,
): DeviceTensor {
  const [, , height, width] = noise.dims;
  const count = elements(noise.dims);
  const change = maskToTensor(mask, size.width, size.height, width, height).data;
  const repeated = new Float32Array(count);
  for (let at = 0; at < count; at += change.length) {
    repeated.set(change, at);
  }
  const blend = arithmetic.empty([3 * count]);
  const uploaded = arithmetic.upload(repeated, [count]);
  arithmetic.copy(image, 0, blend, 0, count);
  arithmetic.copy(noise, 0, blend, count, count);
  arithmetic.copy(uploaded, 0, blend, 2 * count, count);
  uploaded.dispose();
  return blend;
}
