/** The values that chunks give and take, one type per medium; src/media knows how each becomes a file. */

/** Pixels in memory: 8-bit RGBA rows from the top, not premultiplied; `data.length` = width · height · 4. */
export interface PixelImage {
  width: number;
  height: number;
  data: Uint8ClampedArray<ArrayBuffer>;
}

/** Sound in memory: one plane per channel, all of one length, samples from −1 to 1; `rate` in samples per second. */
export interface Sound {
  rate: number;
  channels: Float32Array<ArrayBuffer>[];
}

/** A program that the sandbox runs. */
export interface Sketch {
  language: 'p5' | 'tonejs';
  source: string;
}

/** What a chunk returns. */
export type Media = { kind: 'image'; images: PixelImage[] };

/** A named tensor on the CPU, row-major. */
export interface CpuTensor {
  dims: number[];
  data: Float32Array<ArrayBuffer>;
}
