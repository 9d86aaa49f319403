/**
 * Latents at another size, as `torch.nn.functional.interpolate` makes them, which AUTOMATIC1111's latent upscalers and ComfyUI's LatentUpscale call.
 * Reference: aten/src/ATen/native/UpSample.h and cpu/UpSampleKernel.cpp of PyTorch, `align_corners=False`
 */
import type { CpuTensor } from './media.ts';

export const LATENT_UPSCALERS = [
  'latent',
  'latent_antialiased',
  'latent_bicubic',
  'latent_bicubic_antialiased',
  'latent_nearest',
  'latent_nearest_exact',
] as const;
export type LatentUpscaler = (typeof LATENT_UPSCALERS)[number];

/** What one place of the result reads: places of the source and how much each counts. */
interface Tap {
  from: number;
  weight: number;
}

/**
 * @param latents `[batch, channels, height, width]`, f32
 * @param height of the result, not below that of the source, as is `width`
 */
export function resizeLatents(
  { dims, data }: CpuTensor,
  height: number,
  width: number,
  how: LatentUpscaler,
): CpuTensor {
  const [batch, channels, fromHeight, fromWidth] = dims;
  const planes = batch * channels;
  const rows = Array.from({ length: height }, (_, y) => tapsOf(y, fromHeight, height, how));
  const columns = Array.from({ length: width }, (_, x) => tapsOf(x, fromWidth, width, how));
  const resized = new Float32Array(planes * height * width);
  const line = new Float32Array(fromHeight * width);
  for (let plane = 0; plane < planes; plane++) {
    const start = plane * fromHeight * fromWidth;
    for (let y = 0; y < fromHeight; y++) {
      columns.forEach((taps, x) => {
        line[y * width + x] = taps.reduce(
          (sum, { from, weight }) => sum + weight * data[start + y * fromWidth + from],
          0,
        );
      });
    }
    rows.forEach((taps, y) => {
      for (let x = 0; x < width; x++) {
        resized[(plane * height + y) * width + x] = taps.reduce(
          (sum, { from, weight }) => sum + weight * line[from * width + x],
          0,
        );
      }
    });
  }
  return { dims: [batch, channels, height, width], data: resized };
}

/** Keys' cubic with the constants of torch: one where it only interpolates, PIL's where it is antialiased. */
const CUBIC = -0.75;
const ANTIALIASED_CUBIC = -0.5;

function tapsOf(place: number, from: number, to: number, how: LatentUpscaler): Tap[] {
  const scale = from / to;
  const inside = (at: number) => Math.min(Math.max(at, 0), from - 1);
  if (how === 'latent_nearest' || how === 'latent_nearest_exact') {
    // torch multiplies in f32, by which some places fall to the neighbour.
    const exact = how === 'latent_nearest_exact' ? 0.5 : 0;
    return [{ from: inside(Math.floor(Math.fround((place + exact) * Math.fround(scale)))), weight: 1 }];
  }
  const centre = (place + 0.5) * scale - 0.5;
  const low = Math.floor(centre);
  const isCubic = how.startsWith('latent_bicubic');
  const reach = isCubic ? [-1, 0, 1, 2] : [0, 1];
  const isAntialiased = how.endsWith('antialiased');
  const weightAt = (distance: number) =>
    isCubic ? cubic(distance, isAntialiased ? ANTIALIASED_CUBIC : CUBIC) : Math.max(0, 1 - distance);
  const taps = reach.map((offset) => ({ from: low + offset, weight: weightAt(Math.abs(centre - low - offset)) }));
  if (!isAntialiased) {
    // Beyond its ends the source goes on as it ends.
    return taps.map((tap) => ({ ...tap, from: inside(tap.from) }));
  }
  const known = taps.filter((tap) => tap.from === inside(tap.from));
  const sum = known.reduce((total, { weight }) => total + weight, 0);
  return known.map((tap) => ({ ...tap, weight: tap.weight / sum }));
}

function cubic(distance: number, a: number): number {
  return distance <= 1
    ? ((a + 2) * distance - (a + 3)) * distance * distance + 1
    : distance < 2
      ? (((distance - 5) * distance + 8) * distance - 4) * a
      : 0;
}
