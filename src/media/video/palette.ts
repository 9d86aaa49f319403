/**
 * The colours of a GIF: found by cutting all colours of a video into boxes, each at the mean of its widest side and the one with the greatest
 * error first, as in P. Heckbert, "Color image quantization for frame buffer display" (SIGGRAPH 1982), with the choice of box by error of X. Wu,
 * "Efficient statistical computations for optimal color quantization" (Graphics Gems II, 1991). In between, pixels are dithered in a fixed order
 * (B. E. Bayer, 1973), so that what stands still in a video stands still in the GIF.
 */

/** Bits of each channel by which colours are told apart while they are counted and looked up. */
const BITS = 6;
const BINS = 1 << (3 * BITS);
const UNKNOWN = 0xffff;
/** Side of the dither's pattern. */
const SIDE = 8;

export interface Palette {
  /** Red, green and blue of each colour, at most 255 of them. */
  colours: Uint8Array<ArrayBuffer>;
  /** How far dithering moves a channel at most, up and down together, in levels. */
  spread: number;
}

interface Box {
  bins: number[];
  weight: number;
  mean: [number, number, number];
  /** Sum of the squared distances from the mean, by channel. */
  errors: [number, number, number];
}

/** Counts the colours of pictures. */
export class ColourCensus {
  readonly #counts = new Float64Array(BINS);
  /** Sums of the three channels. */
  readonly #sums = new Float64Array(3 * BINS);
  #squares = 0;

  /** @param data RGBA; transparency is not looked at */
  add(data: Uint8ClampedArray): void {
    let squares = 0;
    for (let i = 0; i < data.length; i += 4) {
      const r = data[i];
      const g = data[i + 1];
      const b = data[i + 2];
      const bin = binOf(r, g, b);
      this.#counts[bin] += 1;
      this.#sums[3 * bin] += r;
      this.#sums[3 * bin + 1] += g;
      this.#sums[3 * bin + 2] += b;
      squares += r * r + g * g + b * b;
    }
    this.#squares += squares;
  }

  /** @param most colours, from 1 to 255 */
  palette(most: number): Palette {
    const all: number[] = [];
    this.#counts.forEach((count, bin) => {
      if (count > 0) {
        all.push(bin);
      }
    });
    const boxes = [this.#box(all)];
    while (boxes.length < most) {
      const worst = boxes.reduce((a, b) => (widest(b) > widest(a) ? b : a));
      if (worst.bins.length < 2 || widest(worst) <= 0) {
        break;
      }
      boxes.splice(boxes.indexOf(worst), 1, ...this.#cut(worst));
    }
    const weight = boxes.reduce((sum, box) => sum + box.weight, 0);
    const kept = boxes.reduce((sum, { mean: [r, g, b], weight: own }) => sum + own * (r * r + g * g + b * b), 0);
    // What is rounded to steps of Δ is wrong by Δ/√12 on average, so this is the step that these colours amount to.
    const error = weight === 0 ? 0 : Math.sqrt(Math.max(0, this.#squares - kept) / (3 * weight));
    return {
      colours: Uint8Array.from(boxes.flatMap(({ mean }) => mean.map(Math.round))),
      spread: Math.sqrt(12) * error,
    };
  }

  #cut({ bins, mean, errors }: Box): [Box, Box] {
    const channel = errors.indexOf(Math.max(...errors));
    const isBelow = (bin: number) => this.#sums[3 * bin + channel] / this.#counts[bin] <= mean[channel];
    return [this.#box(bins.filter(isBelow)), this.#box(bins.filter((bin) => !isBelow(bin)))];
  }

  #box(bins: number[]): Box {
    const mean: Box['mean'] = [0, 0, 0];
    const errors: Box['errors'] = [0, 0, 0];
    let weight = 0;
    for (const bin of bins) {
      weight += this.#counts[bin];
      for (const channel of [0, 1, 2] as const) {
        mean[channel] += this.#sums[3 * bin + channel];
      }
    }
    for (const channel of [0, 1, 2] as const) {
      mean[channel] /= Math.max(1, weight);
      for (const bin of bins) {
        const count = this.#counts[bin];
        errors[channel] += count * (this.#sums[3 * bin + channel] / count - mean[channel]) ** 2;
      }
    }
    return { bins, weight, mean, errors };
  }
}

/** Finds the colours of a palette for pictures, with dithering. */
export class Dither {
  readonly #colours: Uint8Array;
  readonly #offsets: Float64Array;
  /** The nearest colour of each bin, once it was looked for. */
  readonly #nearest = new Uint16Array(BINS).fill(UNKNOWN);

  constructor({ colours, spread }: Palette) {
    this.#colours = colours;
    this.#offsets = Float64Array.from({ length: SIDE * SIDE }, (_, i) => {
      const [x, y] = [i % SIDE, Math.floor(i / SIDE)];
      return ((bayer(x, y) + 0.5) / (SIDE * SIDE) - 0.5) * spread;
    });
  }

  /** @param data RGBA @returns the colours' numbers, one for each pixel */
  indices(data: Uint8ClampedArray, width: number): Uint8Array<ArrayBuffer> {
    const indices = new Uint8Array(data.length / 4);
    for (let pixel = 0; pixel < indices.length; pixel++) {
      const x = pixel % width;
      const offset = this.#offsets[((((pixel - x) / width) % SIDE) * SIDE + (x % SIDE)) | 0];
      const at = 4 * pixel;
      const bin = binOf(level(data[at] + offset), level(data[at + 1] + offset), level(data[at + 2] + offset));
      const known = this.#nearest[bin];
      indices[pixel] = known === UNKNOWN ? this.#find(bin) : known;
    }
    return indices;
  }

  #find(bin: number): number {
    const [step, mask] = [1 << (8 - BITS), (1 << BITS) - 1];
    const middle = (part: number) => (part & mask) * step + step / 2 - 0.5;
    const [r, g, b] = [middle(bin >> (2 * BITS)), middle(bin >> BITS), middle(bin)];
    let [best, least] = [0, Infinity];
    for (let i = 0; i < this.#colours.length; i += 3) {
      const [dr, dg, db] = [this.#colours[i] - r, this.#colours[i + 1] - g, this.#colours[i + 2] - b];
      const distance = dr * dr + dg * dg + db * db;
      if (distance < least) {
        [best, least] = [i / 3, distance];
      }
    }
    this.#nearest[bin] = best;
    return best;
  }
}

function widest({ errors }: Box): number {
  return Math.max(...errors);
}

function binOf(r: number, g: number, b: number): number {
  const drop = 8 - BITS;
  return ((r >> drop) << (2 * BITS)) | ((g >> drop) << BITS) | (b >> drop);
}

function level(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** Bayer's matrix: the bits of x⊕y and y, alternately and reversed. */
function bayer(x: number, y: number): number {
  let value = 0;
  for (let bit = 1, weight = (SIDE * SIDE) / 4; bit < SIDE; bit *= 2, weight /= 4) {
    value += ((x ^ y) & bit ? 2 * weight : 0) + (y & bit ? weight : 0);
  }
  return value;
}
