/**
 * Pictures and masks as numbers for networks, scaled exactly as diffusers does it, so that the same picture gives the same latents.
 * Source: diffusers, image_processor.py (VaeImageProcessor).
 */
import { luma } from '../core/luma.ts';
import type { CpuTensor, PixelImage } from '../core/media.ts';
import { resizeLanczos } from '../core/pillow_resize.ts';

const CHANNELS = 4;

/** RGB as `[1, 3, height, width]` from −1 to 1; alpha is dropped, or a fourth channel. */
export function imageToTensor(image: PixelImage, planes: 3 | 4 = 3): CpuTensor {
  const { width, height, data } = image;
  const plane = width * height;
  const out = new Float32Array(planes * plane);
  for (let i = 0; i < plane; i++) {
    for (let channel = 0; channel < planes; channel++) {
      out[channel * plane + i] = 2 * Math.fround((data[i * CHANNELS + channel] ?? 0) / 255) - 1;
    }
  }
  return { dims: [1, planes, height, width], data: out };
}

/**
 * A mask for latents, `[1, 1, latentHeight, latentWidth]` of 0 (keep) and 1 (change): scaled to the picture's size, made grey,
 * cut at one half, then the nearest pixel for each latent.
 * @param width the picture's size in pixels, as `height`
 * @param isSoft whether greys stay between 0 and 1
 */
export function maskToTensor(
  mask: PixelImage,
  width: number,
  height: number,
  latentWidth: number,
  latentHeight: number,
  isSoft = false,
): CpuTensor {
  const { data } = resizeLanczos(mask, width, height);
  const out = new Float32Array(latentWidth * latentHeight);
  for (let y = 0; y < latentHeight; y++) {
    const row = nearest(y, height, latentHeight) * width;
    for (let x = 0; x < latentWidth; x++) {
      const grey = luma(data, (row + nearest(x, width, latentWidth)) * CHANNELS);
      out[y * latentWidth + x] = isSoft ? grey / 255 : grey / 255 < 0.5 ? 0 : 1;
    }
  }
  return { dims: [1, 1, latentHeight, latentWidth], data: out };
}

/** torch.nn.functional.interpolate's source index in the mode "nearest", with its f32 scale. */
function nearest(target: number, from: number, to: number): number {
  return Math.min(Math.floor(Math.fround(target * Math.fround(from / to))), from - 1);
}
