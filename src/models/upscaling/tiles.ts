/**
 * Enlarges a picture tile by tile without seams: tiles overlap far enough that only their inner parts are used, and fade into one another
 * over a few pixels in the middle of the overlap.
 */

/** Pixels of a picture, or of a tile, before they are enlarged. */
export interface Extent {
  width: number;
  height: number;
}

export interface Tile extends Extent {
  /** Place among the tiles. */
  row: number;
  column: number;
  top: number;
  left: number;
}

/** Distance from a tile's edge to the middle of the overlap, in pixels: the reach of 20 convolutions plus {@link FADE}. */
const MARGIN = 24;
/** Half the width of the fade between two tiles, in pixels. */
const FADE = 4;

/** Start positions of tiles along one side; all tiles have the same length, and neighbours share at least twice the margin. */
function startsAlong(length: number, side: number): number[] {
  if (length <= side) {
    return [0];
  }
  const count = Math.ceil((length - 2 * MARGIN) / (side - 2 * MARGIN));
  return Array.from({ length: count }, (_, n) => Math.round((n * (length - side)) / (count - 1)));
}

/**
 * Row by row, all of one size, so that one session computes them.
 * @param side of a tile in pixels, more than twice the margin
 */
export function layTiles({ width, height }: Extent, side: number): Tile[] {
  const size = { width: Math.min(side, width), height: Math.min(side, height) };
  return startsAlong(height, side).flatMap((top, row) =>
    startsAlong(width, side).map((left, column) => ({ row, column, top, left, ...size })),
  );
}

/**
 * The weight of each enlarged pixel of a tile along one side. The weights of all tiles add up to 1.
 * @param starts of all tiles along this side, and
 * @param length of each, in pixels of the given picture
 * @param scale of the enlarged picture
 */
function sharesAlong(starts: readonly number[], index: number, length: number, scale: number): Float32Array {
  const start = starts[index];
  // 0 before the fade into a tile, 1 after it.
  const into = (tile: number, at: number) => {
    const middle = (starts[tile] + starts[tile - 1] + length) / 2;
    return Math.min(1, Math.max(0, (at - middle + FADE) / (2 * FADE)));
  };
  return Float32Array.from({ length: length * scale }, (_, n) => {
    const at = start + (n + 0.5) / scale;
    const entered = index === 0 ? 1 : into(index, at);
    return index === starts.length - 1 ? entered : entered - into(index + 1, at);
  });
}

/** Assembles enlarged tiles, row by row as laid by {@link layTiles}. Only unfinished rows are held as floats. */
export class TileJoiner {
  readonly #rows: number[];
  readonly #columns: number[];
  readonly #size: Extent;
  /** Sums of a row of tiles, [3, tile.height·scale, width·scale]. */
  #strip: Float32Array;
  /** The row of tiles before it. */
  #before: { strip: Float32Array; top: number } | null = null;

  /**
   * @param size of the given picture
   * @param side of a tile
   * @param write receives a finished row of the enlarged picture: red, green and blue of its pixels
   */
  constructor(
    readonly picture: Extent,
    side: number,
    readonly scale: number,
    readonly write: (y: number, colours: readonly [Float32Array, Float32Array, Float32Array]) => void,
  ) {
    this.#rows = startsAlong(picture.height, side);
    this.#columns = startsAlong(picture.width, side);
    this.#size = { width: Math.min(side, picture.width), height: Math.min(side, picture.height) };
    this.#strip = this.#empty();
  }

  /** @param colours [3, tile.height·scale, tile.width·scale] */
  add(tile: Tile, colours: Float32Array): void {
    const { scale } = this;
    const [width, height] = [tile.width * scale, tile.height * scale];
    const whole = this.picture.width * scale;
    const shares = sharesAlong(this.#columns, tile.column, tile.width, scale);
    for (let line = 0; line < 3 * height; line++) {
      const to = line * whole + tile.left * scale;
      for (let x = 0; x < width; x++) {
        this.#strip[to + x] += shares[x] * colours[line * width + x];
      }
    }
    if (tile.column === this.#columns.length - 1) {
      this.#finish(tile.row);
    }
  }

  /** Writes the rows that no later row of tiles changes. */
  #finish(row: number): void {
    const { scale } = this;
    const width = this.picture.width * scale;
    const height = this.#size.height * scale;
    const shares = sharesAlong(this.#rows, row, this.#size.height, scale);
    const top = this.#rows[row] * scale;
    const until = row === this.#rows.length - 1 ? this.picture.height * scale : this.#rows[row + 1] * scale;
    for (let y = top; y < until; y++) {
      const share = shares[y - top];
      const before = this.#before;
      const above = before && y < before.top + height ? y - before.top : null;
      const line = (c: number) => {
        const own = this.#strip.subarray((c * height + y - top) * width, (c * height + y - top + 1) * width);
        if (!before || above === null || share === 1) {
          return own;
        }
        const other = before.strip.subarray((c * height + above) * width, (c * height + above + 1) * width);
        return own.map((value, x) => share * value + (1 - share) * other[x]);
      };
      this.write(y, [line(0), line(1), line(2)]);
    }
    this.#before = { strip: this.#strip, top };
    this.#strip = this.#empty();
  }

  #empty(): Float32Array {
    return new Float32Array(3 * this.#size.height * this.scale * this.picture.width * this.scale);
  }
}
