/** Pictures in and out: the browser's own decoders and its PNG encoder. */
import { StudioError } from '../core/errors.ts';
import type { PixelImage } from '../core/media.ts';
import type { ImageSource } from '../core/parameters.ts';
import { isOpaque } from './background.ts';

/** Larger pictures are refused: they would take more than a quarter of a gigabyte once decoded. */
const MAX_PIXELS = 64 * 2 ** 20;

/** How every input picture is read: the file's raw values, rotated according to its EXIF. */
export const AS_STORED: ImageBitmapOptions = { colorSpaceConversion: 'none', premultiplyAlpha: 'none' };

/**
 * Fully transparent pixels come out black; `background.ts` says what replaces them.
 * @param name of the parameter, for the message
 * @throws StudioError `image_unreadable`
 */
export async function decodePicture(source: ImageSource, name: string): Promise<PixelImage> {
  const bitmap = await bitmapOf(source, name);
  try {
    const { width, height } = bitmap;
    const context = surface(width, height);
    context.drawImage(bitmap, 0, 0);
    return { width, height, data: context.getImageData(0, 0, width, height).data };
  } finally {
    bitmap.close();
  }
}

/** As {@link decodePicture} would find it, and as strict, without its pixels, whose way through a canvas takes most of the time. */
export async function pictureSize(source: ImageSource, name: string): Promise<{ width: number; height: number }> {
  const bitmap = await bitmapOf(source, name);
  const { width, height } = bitmap;
  bitmap.close();
  return { width, height };
}

async function bitmapOf(source: ImageSource, name: string): Promise<ImageBitmap> {
  const blob = typeof source === 'string' ? dataUrlBlob(source, name) : source;
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(blob, AS_STORED);
  } catch (cause) {
    throw new StudioError(
      'image_unreadable',
      `The ${name} is not a picture that this browser can read; use a PNG, JPEG or WebP file.`,
      { cause },
    );
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    bitmap.close();
    throw new StudioError(
      'image_unreadable',
      `The ${name} has ${width}×${height} pixels, more than can be used; make it smaller first.`,
      { retry: 'smaller' },
    );
  }
  return bitmap;
}

/** Whether any pixel is not opaque. Checks strip by strip, so that a camera's photo takes little memory. */
export function hasTransparency(bitmap: ImageBitmap): boolean {
  const { width, height } = bitmap;
  const rows = Math.min(height, Math.max(1, Math.floor(2 ** 20 / width)));
  const context = surface(width, rows);
  for (let top = 0; top < height; top += rows) {
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const strip = { width, height: Math.min(rows, height - top) };
    if (!isOpaque({ ...strip, data: context.getImageData(0, 0, strip.width, strip.height).data })) {
      return true;
    }
  }
  return false;
}

/** Without loss. */
export async function encodePng(picture: PixelImage): Promise<Blob> {
  if (!isOpaque(picture)) {
    const { deflated, losslessPng } = await import('./lossless_png.ts');
    return losslessPng(picture, deflated);
  }
  const { width, height, data } = picture;
  const context = surface(width, height);
  context.putImageData(new ImageData(data, width, height), 0, 0);
  return context.canvas.convertToBlob({ type: 'image/png' });
}

function surface(width: number, height: number): OffscreenCanvasRenderingContext2D {
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  if (!context) {
    throw new StudioError(
      'out_of_memory',
      `There was no memory for a picture of ${width}×${height} pixels; choose a smaller size.`,
      { retry: 'smaller' },
    );
  }
  return context;
}

function dataUrlBlob(url: string, name: string): Blob {
  const match = /^data:(image\/[a-z0-9.+-]+);base64,([A-Za-z0-9+/=\s]*)$/.exec(url);
  try {
    if (!match) {
      throw new Error('not a base64 data URL');
    }
    return new Blob([Uint8Array.from(atob(match[2]), (character) => character.charCodeAt(0))], { type: match[1] });
  } catch (cause) {
    throw new StudioError(
      'image_unreadable',
      `The ${name} is not a readable data URL; it must begin with "data:image/png;base64,".`,
      { cause },
    );
  }
}
