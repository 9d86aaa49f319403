/**
 * Puts a picture together from tiles without seams: neighbours overlap and fade into one another around the middle of what they share. The
 * tiles may be larger than where they were cut by a whole factor, as those of an upscaler are.
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

/** How neighbours meet, in pixels of the given picture. */
export interface Seam {
  /** Half of what they share at least: from a tile's edge to the middle of the overlap. */
  margin: number;
  /** Half the width over which one fades into the other, at most the margin. */
  fade: number;
}

/** How many tiles of this side there are along a length, when neighbours share at least twice the margin. */
export function tilesAlong(length: number, side: number, margin: number): number {
  return length <= side ? 1 : Math.ceil((length - 2 * margin) / (side - 2 * margin));
}

/** Start positions of tiles along one side, evenly spread; all have the same length. */
function startsAlong(length: number, side: number, { margin }: Seam): number[] {
  const count = tilesAlong(length, side, margin);
  return count === 1 ? [0] : Array.from({ length: count }, (_, n) => Math.round((n * (length - side)) / (count - 1)));
}

/**
 * Row by row, all of one size, so that one session computes them.
 * @param side of a tile in pixels, more than twice the margin
 */
export function layTiles({ width, height }: Extent, side: number, seam: Seam): Tile[] {
  const size = { width: Math.min(side, width), height: Math.min(side, height) };
  return startsAlong(height, side, seam).flatMap((top, row) =>
    startsAlong(width, side, seam).map((left, column) => ({ row, column, top, left, ...size })),
  );
}

/**
 * The weight of each enlarged pixel of a tile along one side. The weights of all tiles add up to 1.
 * @param starts of all tiles along this side, and
 * @param length of each, in pixels of the given picture
 * @param scale of the enlarged picture
 */
function sharesAlong(
  starts: readonly number[],
  index: number,
  length: number,
  scale: number,
  { fade }: Seam,
): Float32Array {
  const start = starts[index];
  // 0 before the fade into a tile, 1 after it.
  const into = (tile: number, at: number) => {
    const middle = (starts[tile] + starts[tile - 1] + length) / 2;
    return fade === 0 ? Number(at > middle) : Math.min(1, Math.max(0, (at - middle + fade) / (2 * fade)));
  };
  return Float32Array.from({ length: length * scale }, (_, n) => {
    const at = start + (n + 0.5) / scale;
    const entered = index === 0 ? 1 : into(index, at);
    return index === starts.length - 1 ? entered : entered - into(index + 1, at);
  });
}

/** Assembles tiles, row by row as laid by {@link layTiles}. Only unfinished rows are held as floats. */
export class TileJoiner {
  readonly #rows: number[];
  readonly #columns: number[];
  readonly #size: Extent;
  /** Sums for the rows of pixels from the current row of tiles on, [3, tile.height·scale, width·scale]. */
  #sums: Float32Array;

  /**
   * @param picture the size of the given one
   * @param side of a tile
   * @param write receives a finished row of the enlarged picture: red, green and blue of its pixels
   */
  constructor(
    readonly picture: Extent,
    side: number,
    readonly seam: Seam,
    readonly scale: number,
    readonly write: (y: number, colours: readonly [Float32Array, Float32Array, Float32Array]) => void,
  ) {
    this.#rows = startsAlong(picture.height, side, seam);
    this.#columns = startsAlong(picture.width, side, seam);
    this.#size = { width: Math.min(side, picture.width), height: Math.min(side, picture.height) };
    this.#sums = new Float32Array(3 * this.#size.height * scale * picture.width * scale);
  }

  /** @param colours [3, tile.height·scale, tile.width·scale] */
  add(tile: Tile, colours: Float32Array): void {
    const { scale, seam } = this;
    const [width, height] = [tile.width * scale, tile.height * scale];
    const whole = this.picture.width * scale;
    const across = sharesAlong(this.#columns, tile.column, tile.width, scale, seam);
    const down = sharesAlong(this.#rows, tile.row, tile.height, scale, seam);
    for (let line = 0; line < 3 * height; line++) {
      const share = down[line % height];
      const to = line * whole + tile.left * scale;
      for (let x = 0; x < width; x++) {
        this.#sums[to + x] += share * across[x] * colours[line * width + x];
      }
    }
    if (tile.column === this.#columns.length - 1) {
      this.#finish(tile.row);
    }
  }

  /** Writes the rows that no later row of tiles changes, and moves the others up. */
  #finish(row: number): void {
    const { scale } = this;
    const width = this.picture.width * scale;
    const height = this.#size.height * scale;
    const top = this.#rows[row] * scale;
    const isLast = row === this.#rows.length - 1;
    const finished = isLast ? height : this.#rows[row + 1] * scale - top;
    const line = (c: number, y: number) => this.#sums.subarray((c * height + y) * width, (c * height + y + 1) * width);
    for (let y = 0; y < finished; y++) {
      this.write(top + y, [line(0, y), line(1, y), line(2, y)]);
    }
    for (let c = 0; c < 3; c++) {
      this.#sums.copyWithin(c * height * width, (c * height + finished) * width, (c + 1) * height * width);
      this.#sums.fill(0, ((c + 1) * height - finished) * width, (c + 1) * height * width);
    }
  }
}
