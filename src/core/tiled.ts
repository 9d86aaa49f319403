/**
 * A large picture painted tile by tile: the given picture is enlarged, cut into overlapping tiles, each goes from picture to picture with the
 * same words, and they are blended back. Known as "SD upscale" and "Ultimate SD upscale". `tiling.ts` lays the tiles, `tiled_painting.ts` paints.
 */
import * as v from 'valibot';
import { REF } from './further_checkpoints.ts';
import { integer, real, size } from './parameters.ts';

export const tiledScale = () => real('tiled_scale', 1, 4);
/** Of the tiles, in pixels. */
export const tiledSize = (multiple = 8) => size('tiled_size', 64, 2048, multiple);
export const tiledOverlap = () => integer('tiled_overlap', 0, 512);
const UPSCALER_PROBLEM =
  'tiled_upscaler must be lanczos, or the ref of an upscaler, such as builtin:realesr-animevideov3.';
export const tiledUpscaler = () =>
  v.union([v.literal('lanczos'), v.pipe(v.string(), v.regex(REF, UPSCALER_PROBLEM))], UPSCALER_PROBLEM);

/** `tiled_scale` asks for it; 1 paints in tiles without enlarging. */
export const tiledEntries = () => ({
  tiled_scale: v.optional(tiledScale()),
  /** As large as the checkpoint paints usually by default. */
  tiled_size: v.optional(tiledSize()),
  /** Of neighbours, at least and over which they fade; at most half a tile. */
  tiled_overlap: v.optional(tiledOverlap()),
  /** What enlarges, before it is scaled (Lanczos) to the size. */
  tiled_upscaler: v.optional(tiledUpscaler()),
});

export interface TiledRequest {
  tiled_scale?: number | undefined;
  tiled_size?: number | undefined;
  tiled_overlap?: number | undefined;
  tiled_upscaler?: string | undefined;
}

/** Whether there is a picture to cut into tiles, and no settings for tiles that there are not. */
export function isWholeTiled(input: TiledRequest & { operation: string }): boolean {
  return input.tiled_scale === undefined
    ? !Object.keys(input).some((name) => name.startsWith('tiled_'))
    : input.operation === 'image_transform';
}

export const NO_TILED =
  'tiled_scale counts only for image_transform, and tiled_size, tiled_overlap and tiled_upscaler only with it.';
