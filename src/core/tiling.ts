/** Where the tiles of a large picture lie; `tiled.ts` has the parameters. */
import { hiresSide } from './hires.ts';
import { tilesAlong, type Extent } from './picture_tiles.ts';
import type { TiledRequest } from './tiled.ts';

/** In pixels; as in AUTOMATIC1111, unless that is more than half of a tile. */
export const usualOverlap = (side: number) => Math.min(64, side / 2);

/** What is wrong with an overlap of tiles of this side; null where nothing is. */
export function overlapProblem(overlap: number, side: number): string | null {
  return 2 * overlap <= side
    ? null
    : `tiled_overlap is ${overlap}, more than half of the tiles of ${side} pixels; choose at most ${Math.floor(side / 2)}.`;
}

/** The side of a tile, at most; in pixels. @param usual the size that the checkpoint paints */
export function tileSide({ tiled_size: side }: TiledRequest, usual: Extent): number {
  return side ?? Math.min(usual.width, usual.height);
}

/**
 * @param picture before it is enlarged
 * @returns the size of the result and of a tile, and how many tiles there are
 */
export function tiling(
  request: TiledRequest,
  picture: Extent,
  usual: Extent,
): { whole: Extent; tile: Extent; count: number } {
  const { tiled_scale: scale } = request;
  const whole = { width: hiresSide(picture.width, scale), height: hiresSide(picture.height, scale) };
  const side = tileSide(request, usual);
  const { tiled_overlap: overlap = usualOverlap(side) } = request;
  // One that is too large is refused where the tiles are painted.
  const along = (length: number) => tilesAlong(length, side, Math.min(overlap, side / 2) / 2);
  return {
    whole,
    tile: { width: Math.min(side, whole.width), height: Math.min(side, whole.height) },
    count: along(whole.width) * along(whole.height),
  };
}
