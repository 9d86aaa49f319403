/**
 * What autoencoders of videos share. Frames are values of one or several that follow one another, [count, channels, height, width]: one of its own for
 * each on the processor and where they are large, so that what is kept of them is copied nowhere, and one for all where they are small, as a GPU would wait
 * for each of many. A convolution in space and time is one of pictures that have the channels of three frames. An autoencoder goes through a video
 * piece by piece: what a layer has seen of the pieces before is an input of the graph, and what the next piece will want is an output.
 */
import { picture } from './elements.ts';
import type { GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type ConvOptions } from './layers.ts';
import { size, type Value } from './onnx.ts';

/** Names of the frames that a layer has seen, and of those that it will have to be shown: 1 is the latest. */
export const SEEN = /^(.+)\/seen\.([12])$/;
export const KEPT = /^(.+)\/kept\.([12])$/;

/** What three frames each may take, in bytes, of all that a convolution makes at once. */
const TOGETHER_BYTES = 2 ** 26;
/** On the processor a convolution of fewer multiply-adds is left as it is: the nodes of a quicker one take longer than it saves (bench/README.md). */
const FEWEST_PRODUCTS = 2 ** 22;
/** Of a window, where the video had not begun. */
export const NOTHING = -1;

export class FrameWriter extends LayerWriter {
  readonly #kept: { name: string; frame: Value }[] = [];
  readonly #inputs = new Set<Value>();
  /** Pictures' pixels, of those that were made of them. */
  readonly #pixels = new Map<Value, Value>();
  readonly #apart = new Map<Value, Value[]>();
  /** Values of several frames without their last ones, and these. */
  readonly #ended = new Map<Value, { rest: Value; ends: Value[] }>();
  readonly #places = new Map<string, Value>();

  /** @param isFirst whether the piece is the beginning of a video */
  constructor(
    name: string,
    weights: WeightIndex,
    options: GraphOptions,
    readonly isFirst: boolean,
  ) {
    super(name, weights, options);
  }

  override floats(name: string, dims: readonly number[]): Value {
    const value = super.floats(name, dims);
    this.#inputs.add(value);
    return value;
  }

  override tokens(name: string, x: Value): Value {
    const pixels = this.#pixels.get(x) ?? super.tokens(name, x);
    this.#pixels.set(x, pixels);
    return pixels;
  }

  override untokens(name: string, x: Value, like: Value): Value {
    const made = super.untokens(name, x, like);
    this.#pixels.set(made, x);
    return made;
  }

  /** Pixels as `count` pictures as large as those of `like`. */
  pictures(name: string, pixels: Value, count: number, [height, width]: readonly [number, number]): Value {
    const channels = size(pixels.dims) / count / height / width;
    const each = this.reshape(`${name}/each`, pixels, [count, height, width, channels]);
    const made = this.transpose(name, each, [0, 3, 1, 2]);
    if (pixels.dims.length === 2 && pixels.dims[1] === channels) {
      this.#pixels.set(made, pixels);
    }
    return made;
  }

  /** What the layer `path` saw of the piece before, the earliest first; as inputs {@link SEEN}, on a GPU pixel by pixel. */
  seen(path: string, like: Value, most: 1 | 2): Value[] {
    const [, channels, height, width] = picture(like);
    return Array.from({ length: most }, (_, n) => {
      const name = `${path}/seen.${most - n}`;
      return this.#isOnGpu
        ? this.pictures(`${name}/picture`, this.floats(name, [height * width, channels]), 1, [height, width])
        : this.floats(name, [1, channels, height, width]);
    });
  }

  /** Lets the next piece see the last of these frames. */
  keep(path: string, frames: readonly Value[], most: 1 | 2): void {
    const last = countOf(frames.slice(-1)) < most ? frames.slice(-most) : frames.slice(-1);
    const latest = last
      .flatMap((some) =>
        some.dims[0] > most && !this.#apart.has(some) ? this.#endsOf(some, most).ends : this.apart([some]),
      )
      .slice(-most);
    const held = latest.map((frame) => (this.#isOnGpu ? this.tokens(`${path}/kept`, frame) : frame)).reverse();
    this.#kept.push(...held.map((frame, n) => ({ name: `${path}/kept.${n + 1}`, frame })));
  }

  /** Names what is kept, as outputs {@link KEPT}, when nothing is to be computed any more and all other outputs are named. */
  outputKept(): void {
    const named = new Set<string>();
    const outputs = this.#kept.map(({ name, frame }) => {
      // An input is no output, and an output has one name.
      const isTaken = this.#inputs.has(frame) || named.has(frame.name);
      named.add(frame.name);
      return { name, value: isTaken ? this.reshape(`${name}/copy`, frame, frame.dims) : frame };
    });
    // Names change as outputs get theirs.
    outputs.forEach(({ name, value }) => {
      this.output(name, value);
    });
    this.dropUnread();
  }

  /** Each frame by itself. */
  apart(frames: readonly Value[]): Value[] {
    return frames.flatMap((some) => {
      const [count] = some.dims;
      if (count === 1) {
        return [some];
      }
      const each =
        this.#apart.get(some) ??
        this.#cut(
          `${some.name}/apart`,
          some,
          Array.from({ length: count }, () => 1),
        );
      this.#apart.set(some, each);
      return each;
    });
  }

  /** All frames in one value. */
  together(name: string, frames: readonly Value[]): Value {
    if (frames.length === 1) {
      return frames[0];
    }
    const [, , height, width] = picture(frames[0]);
    const count = countOf(frames);
    const pixels = frames.map((some) => this.tokens(`${name}/pixels`, some));
    return this.pictures(`${name}/frames`, this.concat(name, pixels, 0), count, [height, width]);
  }

  /** One value where that is small and there are several, as convolutions over three frames want them; else each frame by itself. */
  arranged(name: string, frames: readonly Value[], windows = countOf(frames)): Value[] {
    return this.isSmall(frames[0], windows) ? [this.together(name, frames)] : this.apart(frames);
  }

  /** The frames in values like those of `others`. */
  alike(name: string, frames: readonly Value[], others: readonly Value[]): readonly Value[] {
    const isAlike = frames.length === others.length && frames.every(({ dims }, n) => dims[0] === others[n].dims[0]);
    return isAlike ? frames : others.length === 1 ? [this.together(name, frames)] : this.apart(frames);
  }

  /** Frames added to as many others. */
  sums(name: string, frames: readonly Value[], others: readonly Value[]): Value[] {
    const added = this.alike(`${name}/alike`, others, frames);
    return frames.map((frame, n) => this.add(name, frame, added[n]));
  }

  /** The frames but the first. */
  afterFirst(name: string, frames: readonly Value[]): Value[] {
    const [some, ...others] = frames;
    const [count] = some.dims;
    return count === 1 ? others : [this.#cut(name, some, [1, count - 1])[1], ...others];
  }

  /** The frames but so many at the end. */
  beforeLast(frames: readonly Value[], last: 1 | 2): Value[] {
    const [some] = frames.slice(-1);
    return some.dims[0] > last && !this.#apart.has(some)
      ? [...frames.slice(0, -1), this.#endsOf(some, last).rest]
      : this.apart(frames).slice(0, -last);
  }

  /**
   * A convolution in space and time, with the kernel [out, channels, 3, kernel, kernel].
   * @param windows the places of three frames each, {@link NOTHING} where there is none
   */
  overWindows(
    path: string,
    frames: readonly Value[],
    windows: readonly (readonly number[])[],
    out: number,
    options: ConvOptions,
  ): Value[] {
    const [, channels, height, width] = picture(frames[0]);
    const { kernel = 3 } = options;
    const [tall, wide] = typeof kernel === 'number' ? [kernel, kernel] : kernel;
    const weight = this.framesFirst(`${path}.weight`, [out, channels, 3, tall, wide]);
    const isPlain = size(weight.dims) * height * width < FEWEST_PRODUCTS;
    const convolved = (stacked: Value) => this.conv(path, stacked, out, { ...options, weight, isPlain });
    if (windows.length > 1 && this.isSmall(frames[0], windows.length)) {
      const all = this.together(`${path}/all`, frames);
      const places = this.#placesOf(windows, height * width);
      const pixels = this.node(
        `${path}/windows`,
        'Gather',
        [this.tokens(`${path}/pixels`, all), places],
        [...places.dims, channels],
      );
      return [convolved(this.pictures(`${path}/stacked`, pixels, windows.length, [height, width]))];
    }
    const each = this.apart(frames);
    return windows.map((window, n) => {
      const there = window.filter((place) => place !== NOTHING).map((place) => each[place]);
      return convolved(this.#stacked(`${path}/${n}`, there, window.length - there.length));
    });
  }

  /** The frames of a group in turn, channel by channel: [channels, group, rest]. */
  inTurn(name: string, group: readonly (Value | null)[], rest: number): Value {
    const there = group.filter((frame) => frame !== null);
    const rows = there.map((frame, k) => this.reshape(`${name}/row.${k}`, frame, [size(frame.dims) / rest, 1, rest]));
    const present = rows.length === 1 ? rows[0] : this.concat(`${name}/rows`, rows, 1);
    const missing = group.length - there.length;
    return missing === 0 ? present : this.#behindNothing(`${name}/filled`, present, missing);
  }

  /** Channels of one frame after another, behind as many of zeros as frames are missing. */
  #stacked(name: string, there: readonly Value[], missing: number): Value {
    const [, channels, height, width] = picture(there[0]);
    if (!this.#isOnGpu) {
      const present = there.length === 1 ? there[0] : this.concat(`${name}/stacked`, there, 1);
      return missing === 0 ? present : this.#behindNothing(`${name}/filled`, present, missing * channels);
    }
    const pixels = there.map((frame) => this.tokens(`${name}/pixels`, frame));
    const present = pixels.length === 1 ? pixels[0] : this.concat(`${name}/stacked`, pixels, 1);
    const all = missing === 0 ? present : this.#behindNothing(`${name}/filled`, present, missing * channels);
    return this.pictures(`${name}/picture`, all, 1, [height, width]);
  }

  /** Puts `missing` zeros before what is there along the second axis. */
  #behindNothing(name: string, x: Value, missing: number): Value {
    const [first, second, ...rest] = x.dims;
    const none = rest.map(() => 0);
    const pads = this.constant([0, missing, ...none, 0, 0, ...none]);
    return this.node(name, 'Pad', [x, pads], [first, missing + second, ...rest], { type: x.type });
  }

  /** Parts of a value of several frames. */
  #cut(name: string, some: Value, counts: readonly number[]): Value[] {
    if (counts.length === 1) {
      return [some];
    }
    if (!this.#isOnGpu) {
      return this.split(name, some, counts, 0);
    }
    const [, , height, width] = picture(some);
    const sizes = counts.map((count) => count * height * width);
    return this.split(name, this.tokens(`${name}/pixels`, some), sizes, 0).map((part, n) =>
      this.pictures(`${name}/${n}`, part, counts[n], [height, width]),
    );
  }

  /** @param last fewer than it has frames */
  #endsOf(some: Value, last: number): { rest: Value; ends: Value[] } {
    const known = this.#ended.get(some);
    if (known?.ends.length === last) {
      return known;
    }
    const ones = Array.from({ length: last }, () => 1);
    const [rest, ...ends] = this.#cut(`${some.name}/ends`, some, [some.dims[0] - last, ...ones]);
    this.#ended.set(some, { rest, ends });
    return { rest, ends };
  }

  get #isOnGpu(): boolean {
    return this.options.provider === 'webgpu';
  }

  /** Whether so many like this one are made as one value. */
  isSmall(frame: Value, windows: number): boolean {
    const [, channels, height, width] = picture(frame);
    const { togetherBytes = TOGETHER_BYTES } = this.options;
    return this.#isOnGpu && 4 * 3 * channels * height * width * windows <= togetherBytes;
  }

  /** Which pixels of all frames' windows are made of, [windows, pixels, 3]. */
  #placesOf(windows: readonly (readonly number[])[], pixels: number): Value {
    const key = `${pixels} ${windows.join(' ')}`;
    const known = this.#places.get(key);
    if (known) {
      return known;
    }
    const begins = windows.flatMap((window) => window.map((place) => place * pixels));
    const dims = [windows.length, pixels, 3];
    const inputs = [
      this.reshape(`${key}/begins`, this.constant(begins), [windows.length, 1, 3]),
      this.reshape(`${key}/pixels`, this.constant(Array.from({ length: pixels }, (_, n) => n)), [1, pixels, 1]),
    ];
    // Folded when the session is created.
    const places = this.node(`${key}/places`, 'Add', inputs, dims, { type: 'i64' });
    this.#places.set(key, places);
    return places;
  }
}

/** How many frames there are. */
export function countOf(frames: readonly Value[]): number {
  return frames.reduce((sum, { dims }) => sum + dims[0], 0);
}

/** x · scale + shift, of each channel its own. */
export function perChannel(
  g: LayerWriter,
  name: string,
  x: Value,
  scale: readonly number[],
  shift: readonly number[],
): Value {
  const column = (part: string, values: readonly number[]) =>
    g.reshape(`${name}/${part}`, g.constant(values, 'f32'), [1, values.length, 1, 1]);
  const scaled = g.binary(`${name}/scaled`, 'Mul', x, column('scale', scale));
  return g.add(`${name}/shifted`, scaled, column('shift', shift));
}

/** Pictures of cells as channels, those of a cell's column following one another, in pixels: [count, 3, height · patch, width · patch]. */
export function unpatched(g: LayerWriter, name: string, x: Value, patch: number): Value {
  if (patch === 1) {
    return x;
  }
  const [count, , height, width] = picture(x);
  const cells = g.reshape(`${name}/cells`, x, [3 * count, patch, patch, height, width]);
  const rows = g.transpose(`${name}/rows`, cells, [0, 3, 2, 4, 1]);
  return g.reshape(`${name}/picture`, rows, [count, 3, height * patch, width * patch]);
}

/** The way back from {@link unpatched}. */
export function patched(g: LayerWriter, name: string, x: Value, patch: number): Value {
  if (patch === 1) {
    return x;
  }
  const [count, channels, height, width] = picture(x);
  const [rows, columns] = [height / patch, width / patch];
  const pixels = g.reshape(`${name}/pixels`, x, [count * channels, rows, patch, columns, patch]);
  const cells = g.transpose(`${name}/cells`, pixels, [0, 4, 2, 1, 3]);
  return g.reshape(`${name}/patches`, cells, [count, channels * patch * patch, rows, columns]);
}
