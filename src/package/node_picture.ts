/** In place of `formats/picture.ts` in Node, which has no canvas: PNG files of 8 bits a channel, not interlaced, as most programs write them. */
import { deflateSync, inflateSync } from 'node:zlib';
import { StudioError } from '../core/errors.ts';
import type { PixelImage } from '../core/media.ts';
import type { ImageSource } from '../core/parameters.ts';
import { losslessPng } from '../formats/lossless_png.ts';

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** @throws StudioError `image_unreadable` */
export async function decodePicture(source: ImageSource, name: string): Promise<PixelImage> {
  const file =
    typeof source === 'string'
      ? Buffer.from(source.slice(source.indexOf(',') + 1), 'base64')
      : new Uint8Array(await source.arrayBuffer());
  try {
    if (SIGNATURE.some((byte, at) => file[at] !== byte)) {
      throw new Error('It is no PNG file.');
    }
    return pngPixels(file);
  } catch (cause) {
    throw new StudioError(
      'image_unreadable',
      `The ${name} cannot be read in Node, which reads PNG files of 8 bits a channel; convert it first.`,
      { cause },
    );
  }
}

export async function pictureSize(source: ImageSource, name: string): Promise<{ width: number; height: number }> {
  const { width, height } = await decodePicture(source, name);
  return { width, height };
}

/** Without loss. */
export function encodePng(picture: PixelImage): Promise<Blob> {
  return losslessPng(picture, (bytes) => new Uint8Array(deflateSync(bytes)));
}

/** Channels by the colour type of the header: grey, RGB, grey with alpha, RGBA. */
const CHANNELS: Readonly<Record<number, number>> = { 0: 1, 2: 3, 4: 2, 6: 4 };

export function pngPixels(file: Uint8Array): PixelImage {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const [width, height, depth, colour] = [view.getUint32(16), view.getUint32(20), file[24], file[25]];
  if (depth !== 8 || !(colour in CHANNELS) || file[28] !== 0) {
    throw new Error('Only PNG files of 8 bits a channel, without palette or interlacing, are read here.');
  }
  const parts: Uint8Array[] = [];
  for (let at = 8; at < file.length; at += 12 + view.getUint32(at)) {
    if (String.fromCharCode(...file.subarray(at + 4, at + 8)) === 'IDAT') {
      parts.push(file.subarray(at + 8, at + 8 + view.getUint32(at)));
    }
  }
  const channels = CHANNELS[colour];
  const rows = unfiltered(inflateSync(Buffer.concat(parts)), width * channels, height, channels);
  const data = new Uint8ClampedArray(width * height * 4);
  for (let i = 0; i < width * height; i++) {
    const pixel = rows.subarray(i * channels, (i + 1) * channels);
    const [red, green, blue] = channels < 3 ? [pixel[0], pixel[0], pixel[0]] : pixel;
    data.set([red, green, blue, channels % 2 === 0 ? pixel[channels - 1] : 255], i * 4);
  }
  return { width, height, data };
}

/** Section 9 of https://www.w3.org/TR/png-3/. */
function unfiltered(packed: Uint8Array, length: number, height: number, step: number): Uint8Array {
  const out = new Uint8Array(length * height);
  for (let y = 0; y < height; y++) {
    const filter = packed[y * (length + 1)];
    for (let x = 0; x < length; x++) {
      const left = x >= step ? out[y * length + x - step] : 0;
      const up = y > 0 ? out[(y - 1) * length + x] : 0;
      const corner = x >= step && y > 0 ? out[(y - 1) * length + x - step] : 0;
      const predicted = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
      out[y * length + x] = packed[y * (length + 1) + 1 + x] + predicted;
    }
  }
  return out;
}

function paeth(left: number, up: number, corner: number): number {
  const estimate = left + up - corner;
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(estimate - value));
  return a <= b && a <= c ? left : b <= c ? up : corner;
}
