/** The values passed between chunks, one type per medium; `src/media` turns each into a file. */

/** Pixels in memory: 8-bit RGBA rows from the top, not premultiplied; `data.length` = width · height · 4. */
export interface PixelImage {
  width: number;
  height: number;
  data: Uint8ClampedArray<ArrayBuffer>;
}

/** Sound in memory: one plane per channel, all of equal length, samples from −1 to 1; `rate` in samples per second. */
export interface Sound {
  rate: number;
  channels: Float32Array<ArrayBuffer>[];
}

/** A program that the sandbox runs. */
export interface Sketch {
  language: 'p5' | 'tonejs';
  source: string;
}

/** Media that steps pass on as text; all others are passed on as files. */
const WRITTEN: readonly string[] = ['text', 'code'];

export function isWritten(medium: string): boolean {
  return WRITTEN.includes(medium);
}

/** A named tensor on the CPU, row-major. */
export interface CpuTensor {
  dims: number[];
  data: Float32Array<ArrayBuffer>;
}

/** A part of a picture in its pixels. What of it lies outside the picture is made of the outermost pixels, and left out again. */
export interface Region {
  x: number;
  y: number;
  width: number;
  height: number;
}
