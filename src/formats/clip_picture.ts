/**
 * A picture as CLIP's vision encoder sees it: its shorter side scaled to the encoder's, the square in the middle, normalised.
 * Reference: transformers, CLIPImageProcessor
 */
import type { CpuTensor, PixelImage } from '../core/media.ts';
import { resizeBicubic } from '../core/pillow_resize.ts';

const MEAN = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION = [0.26862954, 0.26130258, 0.27577711];
const CHANNELS = 4;

/** @returns [1, 3, side, side] */
export function clipPicture(picture: PixelImage, side: number): CpuTensor {
  const shorter = Math.min(picture.width, picture.height);
  const scaled = (length: number) => Math.trunc((side * length) / shorter);
  const { width, height, data } = resizeBicubic(picture, scaled(picture.width), scaled(picture.height));
  const [top, left] = [height, width].map((length) => Math.floor((length - side) / 2));
  const out = new Float32Array(3 * side * side);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      for (let channel = 0; channel < 3; channel++) {
        const value = data[((top + y) * width + left + x) * CHANNELS + channel] / 255;
        out[(channel * side + y) * side + x] = (value - MEAN[channel]) / DEVIATION[channel];
      }
    }
  }
  return { dims: [1, 3, side, side], data: out };
}
