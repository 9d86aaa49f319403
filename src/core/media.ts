/** Pixels in memory: 8-bit RGBA rows from the top, not premultiplied; `data.length` = width · height · 4. */
export interface PixelImage {
  width: number;
  height: number;
  data: Uint8ClampedArray<ArrayBuffer>;
}

/** What a chunk returns. */
export type Media = { kind: 'image'; images: PixelImage[] };

/** A named tensor on the CPU, row-major. */
export interface CpuTensor {
  dims: number[];
  data: Float32Array<ArrayBuffer>;
}
