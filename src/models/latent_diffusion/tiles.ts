/**
 * Decoding or encoding a large picture tile by tile, so that the network's activations are those of one tile. The tiles overlap and are blended
 * over that overlap; since the network sees no further than its tile, the result is near, not equal, to that of the whole.
 *
 * Reference: diffusers/models/autoencoders/autoencoder_kl.py, `tiled_decode`, `_tiled_encode`, `blend_v`, `blend_h`; overlap factor 0.25.
 */
import type { LatentSize } from './networks.ts';

const OVERLAP = 0.25;

/** In latents, or in pixels of a picture to encode, from the upper left corner. */
export interface Tile extends LatentSize {
  /** Place among the tiles. */
  row: number;
  column: number;
  top: number;
  left: number;
}

/**
 * Row by row; those at the right and lower border are as small as what is left there.
 * @param side of a tile in latents, a multiple of 4
 */
export function layTiles({ height, width }: LatentSize, side: number): Tile[] {
  if (height <= side && width <= side) {
    return [{ row: 0, column: 0, top: 0, left: 0, height, width }];
  }
  const stride = Math.trunc(side * (1 - OVERLAP));
  const tiles: Tile[] = [];
  for (let row = 0; row * stride < height; row++) {
    for (let column = 0; column * stride < width; column++) {
      const [top, left] = [row * stride, column * stride];
      tiles.push({
        row,
        column,
        top,
        left,
        height: Math.min(side, height - top),
        width: Math.min(side, width - left),
      });
    }
  }
  return tiles;
}

/** The latents of one tile, [channels, tile.height, tile.width], out of [channels, size.height, size.width]. */
export function cutTile(
  latents: Float32Array,
  size: LatentSize,
  channels: number,
  tile: Tile,
): Float32Array<ArrayBuffer> {
  const cut = new Float32Array(channels * tile.height * tile.width);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < tile.height; y++) {
      const from = (c * size.height + tile.top + y) * size.width + tile.left;
      cut.set(latents.subarray(from, from + tile.width), (c * tile.height + y) * tile.width);
    }
  }
  return cut;
}

/**
 * Blends what was made of tiles into one, [channels, factor·height, factor·width]. The tiles are changed.
 * @param tiles as {@link layTiles} laid them, each with its [channels, factor·tile.height, factor·tile.width]
 */
export function joinTiles(
  tiles: readonly { tile: Tile; pixels: Float32Array }[],
  { height, width }: LatentSize,
  side: number,
  factor: number,
  channels = 3,
): Float32Array<ArrayBuffer> {
  const extent = Math.trunc(side * factor * OVERLAP);
  const limit = side * factor - extent;
  const whole = { height: height * factor, width: width * factor };
  const picture = new Float32Array(channels * whole.height * whole.width);
  const places = new Map(tiles.map((one) => [`${one.tile.row},${one.tile.column}`, one]));
  for (const { tile, pixels } of tiles) {
    const own = { height: tile.height * factor, width: tile.width * factor };
    // The neighbours are blended already, as in the reference, whose tiles are changed in place.
    const above = places.get(`${tile.row - 1},${tile.column}`);
    if (above) {
      const other = { height: above.tile.height * factor, width: above.tile.width * factor };
      blend(pixels, own, above.pixels, other, extent, 'down', channels);
    }
    const left = places.get(`${tile.row},${tile.column - 1}`);
    if (left) {
      const other = { height: left.tile.height * factor, width: left.tile.width * factor };
      blend(pixels, own, left.pixels, other, extent, 'across', channels);
    }
    const isOnly = tiles.length === 1;
    const rows = isOnly ? own.height : Math.min(own.height, limit);
    const columns = isOnly ? own.width : Math.min(own.width, limit);
    for (let c = 0; c < channels; c++) {
      for (let y = 0; y < rows; y++) {
        const from = (c * own.height + y) * own.width;
        const to = (c * whole.height + tile.row * limit + y) * whole.width + tile.column * limit;
        picture.set(pixels.subarray(from, from + columns), to);
      }
    }
  }
  return picture;
}

/** Fades from the last `extent` rows (or columns) of the one before into the first ones of this tile. */
function blend(
  tile: Float32Array,
  own: LatentSize,
  before: Float32Array,
  other: LatentSize,
  extent: number,
  direction: 'down' | 'across',
  channels: number,
): void {
  const down = direction === 'down';
  const length = down ? Math.min(other.height, own.height, extent) : Math.min(other.width, own.width, extent);
  const [rows, columns] = down ? [length, own.width] : [own.height, length];
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const share = (down ? y : x) / length;
        const at = (c * own.height + y) * own.width + x;
        const [row, column] = down ? [other.height - length + y, x] : [y, other.width - length + x];
        const from = (c * other.height + row) * other.width + column;
        tile[at] = Math.fround(before[from] * Math.fround(1 - share)) + Math.fround(tile[at] * Math.fround(share));
      }
    }
  }
}
