/** The grey of the pixel at index `i` of RGBA bytes, 0 to 255: ITU-R 601 luma in the fixed-point form of Pillow's `convert("L")`. */
export function luma(data: Uint8ClampedArray, i: number): number {
  return (19595 * data[i] + 38470 * data[i + 1] + 7471 * data[i + 2] + 0x8000) >> 16;
}
