/** Latents of a picture with something else where a mask is white: noise, or nothing. */
import type { GroundRequest } from '../../core/model.ts';
import { maskToTensor } from '../../formats/resample.ts';
import { DeviceLatents } from './device_latents.ts';

/**
 * Reference: AUTOMATIC1111, modules/processing.py (StableDiffusionProcessingImg2Img.init, `inpainting_fill` 2 and 3)
 * @param latents as the encoder gave them; disposed of
 * @param size of the picture, in pixels
 */
export async function onGround(
  latents: DeviceLatents,
  { mask, noise }: GroundRequest,
  size: { width: number; height: number },
): Promise<DeviceLatents> {
  const { dims, engine } = latents;
  try {
    const data = await latents.read();
    const isNew = maskToTensor(mask, size.width, size.height, dims[3], dims[2]).data;
    const drawn = noise?.ofStart(dims);
    data.forEach((value, i) => (data[i] = isNew[i % isNew.length] > 0 ? (drawn?.[i] ?? 0) : value));
    return new DeviceLatents(engine.arithmetic.upload(data, dims), engine);
  } finally {
    latents.dispose();
  }
}
