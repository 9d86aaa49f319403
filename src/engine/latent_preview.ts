/**
 * The colours a checkpoint's decoder gives its latents, as a matrix, which the live preview draws at every step.
 * Instead of coming from a list of known models, the matrix is measured on the checkpoint's own decoder: smooth random latents are decoded
 * once and the colours fitted by least squares. So it suits any checkpoint, trained or tiny.
 */
import type { PixelImage } from '../core/media.ts';
import { TorchGenerator } from '../core/random.ts';
import type { PreviewColours } from './arithmetic.ts';

/** Latents are constant over blocks of this size, because real pictures are smooth. */
const BLOCK = 4;
/** The fewest blocks per side: with fewer samples than channels the fit would be underdetermined. */
const FEWEST_BLOCKS = 4;

/**
 * @param space.factor pixels per latent
 * @param size latents per side of the picture to decode for the fit, at least 4
 * @param decode latents [1, channels, size, size], as the sampler leaves them → picture
 */
export async function fitPreviewColours(
  { channels, factor }: { channels: number; factor: number },
  size: number,
  decode: (latents: Float32Array<ArrayBuffer>, dims: number[]) => Promise<PixelImage>,
): Promise<PreviewColours> {
  const block = Math.max(1, Math.min(BLOCK, Math.floor(size / FEWEST_BLOCKS)));
  const cells = Math.ceil(size / block);
  const noise = new TorchGenerator('0').randn(channels * cells * cells);
  const plane = size * size;
  const latents = new Float32Array(channels * plane);
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < plane; i++) {
      const cell = Math.floor(i / size / block) * cells + Math.floor((i % size) / block);
      latents[c * plane + i] = noise[c * cells * cells + cell];
    }
  }
  const picture = await decode(latents, [1, channels, size, size]);

  // Normal equations of the (channels + 1) unknowns per colour; the last unknown is the constant.
  const unknowns = channels + 1;
  const normal = Array.from({ length: unknowns }, () => new Float64Array(unknowns + 3));
  const row = new Float64Array(unknowns);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < channels; c++) {
      row[c] = latents[c * plane + i];
    }
    row[channels] = 1;
    const colour = averageColour(picture, (i % size) * factor, Math.floor(i / size) * factor, factor);
    for (let a = 0; a < unknowns; a++) {
      for (let b = 0; b < unknowns; b++) {
        normal[a][b] += row[a] * row[b];
      }
      for (let k = 0; k < 3; k++) {
        normal[a][unknowns + k] += row[a] * colour[k];
      }
    }
  }
  return solve(normal);
}

/** Mean colour of a square of the picture, 0…1. */
function averageColour(picture: PixelImage, left: number, top: number, size: number): [number, number, number] {
  const sum: [number, number, number] = [0, 0, 0];
  for (let y = top; y < top + size; y++) {
    for (let x = left; x < left + size; x++) {
      for (let k = 0; k < 3; k++) {
        sum[k] += picture.data[(y * picture.width + x) * 4 + k];
      }
    }
  }
  return sum.map((value) => value / (255 * size * size)) as [number, number, number];
}

/** Gauss–Jordan with a small ridge, so that a channel without influence gets the colour zero. */
function solve(system: Float64Array[]): [number, number, number][] {
  const n = system.length;
  system.forEach((row, i) => {
    row[i] += 1e-6;
  });
  for (let pivot = 0; pivot < n; pivot++) {
    const best = system.reduce(
      (top, row, i) => (i > pivot && Math.abs(row[pivot]) > Math.abs(system[top][pivot]) ? i : top),
      pivot,
    );
    [system[pivot], system[best]] = [system[best], system[pivot]];
    const divisor = system[pivot][pivot];
    system[pivot] = system[pivot].map((value) => value / divisor);
    for (let i = 0; i < n; i++) {
      if (i !== pivot) {
        const share = system[i][pivot];
        system[i] = system[i].map((value, k) => value - share * system[pivot][k]);
      }
    }
  }
  return system.map((row) => [row[n], row[n + 1], row[n + 2]]);
}
