/** A picture to start from with something else where a mask is white: what is around it, noise, or nothing. */
import type { PixelImage } from '../../core/media.ts';
import type { GroundRequest } from '../../core/model.ts';
import { resizeLanczos } from '../../core/pillow_resize.ts';
import { maskToTensor } from '../../formats/resample.ts';
import { filledFromAround } from '../../formats/surroundings.ts';
import { DeviceLatents } from './device_latents.ts';

/**
 * Before it is encoded; `inpainting_fill` 0 of the same reference as below.
 * @param picture of the size that is painted
 */
export function withGround(picture: PixelImage, ground: GroundRequest | undefined): PixelImage {
  return ground?.content === 'around'
    ? filledFromAround(picture, resizeLanczos(ground.mask, picture.width, picture.height))
    : picture;
}

/**
 * Reference: AUTOMATIC1111, modules/processing.py (StableDiffusionProcessingImg2Img.init, `inpainting_fill` 2 and 3)
 * @param latents as the encoder gave them; disposed of
 * @param size of the picture, in pixels
 */
export async function onGround(
  latents: DeviceLatents,
  ground: GroundRequest | undefined,
  size: { width: number; height: number },
): Promise<DeviceLatents> {
  if (!ground || ground.content === 'around') {
    return latents;
  }
  const { dims, engine } = latents;
  try {
    const data = await latents.read();
    const isNew = maskToTensor(ground.mask, size.width, size.height, dims[3], dims[2]).data;
    const drawn = ground.content === 'noise' ? ground.noise.ofStart(dims) : null;
    data.forEach((value, i) => (data[i] = isNew[i % isNew.length] > 0 ? (drawn?.[i] ?? 0) : value));
    return new DeviceLatents(engine.arithmetic.upload(data, dims), engine);
  } finally {
    latents.dispose();
  }
}
