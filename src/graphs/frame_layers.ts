/**
 * What autoencoders of videos share. Frames are values of their own, [1, channels, height, width], so that what is kept of them is copied
 * nowhere, and a convolution in space and time is one of pictures that have the channels of three frames. An autoencoder goes through a video
 * piece by piece: what a layer has seen of the pieces before is an input of the graph, and what the next piece will want is an output.
 */
import { picture } from './elements.ts';
import type { GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type ConvOptions } from './layers.ts';
import { size, type Value } from './onnx.ts';

/** Names of the frames that a layer has seen, and of those that it will have to be shown: 1 is the latest. */
export const SEEN = /^(.+)\/seen\.([12])$/;
export const KEPT = /^(.+)\/kept\.([12])$/;

export class FrameWriter extends LayerWriter {
  readonly #kept: { name: string; frame: Value }[] = [];
  readonly #inputs = new Set<Value>();

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

  /** What the layer `path` saw of the piece before, the earliest first; as inputs {@link SEEN}. */
  seen(path: string, dims: readonly number[], most: 1 | 2): Value[] {
    return Array.from({ length: most }, (_, n) => this.floats(`${path}/seen.${most - n}`, dims));
  }

  /** Lets the next piece see the last of these frames. */
  keep(path: string, frames: readonly Value[], most: 1 | 2): void {
    const latest = frames.slice(-most).reverse();
    this.#kept.push(...latest.map((frame, n) => ({ name: `${path}/kept.${n + 1}`, frame })));
  }

  /** Names what is kept, as outputs {@link KEPT}, when nothing is to be computed any more. */
  outputKept(): void {
    const named = new Set<Value>();
    for (const { name, frame } of this.#kept) {
      // An input is no output, and an output has one name.
      const isTaken = this.#inputs.has(frame) || named.has(frame);
      named.add(frame);
      this.output(name, isTaken ? this.reshape(`${name}/copy`, frame, frame.dims) : frame);
    }
  }

  /** Reads the weight [out, channels, 3, kernel, kernel] where it lies, as that of a picture whose channels are each of three frames. */
  overThree(path: string, n: number, window: readonly (Value | null)[], out: number, options: ConvOptions): Value {
    const there = window.filter((frame) => frame !== null);
    const [, channels, height, width] = picture(there[0]);
    const rows = there.map((frame, k) => this.reshape(`${path}/${n}/row.${k}`, frame, [channels, 1, height * width]));
    const present = rows.length === 1 ? rows[0] : this.concat(`${path}/${n}/rows`, rows, 1);
    const missing = window.length - there.length;
    const all = missing === 0 ? present : this.#behindNothing(`${path}/${n}/filled`, present, missing);
    return this.conv(path, this.reshape(`${path}/${n}/stacked`, all, [1, 3 * channels, height, width]), out, options);
  }

  /** The frames of a group in turn, channel by channel: [channels, group, rest]. */
  inTurn(name: string, group: readonly (Value | null)[], rest: number): Value {
    const there = group.filter((frame) => frame !== null);
    const rows = there.map((frame, k) => this.reshape(`${name}/row.${k}`, frame, [size(frame.dims) / rest, 1, rest]));
    const present = rows.length === 1 ? rows[0] : this.concat(`${name}/rows`, rows, 1);
    const missing = group.length - there.length;
    return missing === 0 ? present : this.#behindNothing(`${name}/filled`, present, missing);
  }

  /** Puts `missing` rows of zeros before those of each channel. */
  #behindNothing(name: string, x: Value, missing: number): Value {
    const [channels, rows, pixels] = x.dims;
    const pads = this.constant([0, missing, 0, 0, 0, 0]);
    return this.node(name, 'Pad', [x, pads], [channels, rows + missing, pixels], { type: x.type });
  }
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

/** A picture of cells as channels, those of a cell's column following one another, in pixels: [1, 3, height · patch, width · patch]. */
export function unpatched(g: LayerWriter, name: string, x: Value, patch: number): Value {
  if (patch === 1) {
    return x;
  }
  const [, , height, width] = picture(x);
  const cells = g.reshape(`${name}/cells`, x, [3, patch, patch, height, width]);
  const rows = g.transpose(`${name}/rows`, cells, [0, 3, 2, 4, 1]);
  return g.reshape(`${name}/picture`, rows, [1, 3, height * patch, width * patch]);
}

/** The way back from {@link unpatched}. */
export function patched(g: LayerWriter, name: string, x: Value, patch: number): Value {
  if (patch === 1) {
    return x;
  }
  const [, channels, height, width] = picture(x);
  const [rows, columns] = [height / patch, width / patch];
  const pixels = g.reshape(`${name}/pixels`, x, [channels, rows, patch, columns, patch]);
  const cells = g.transpose(`${name}/cells`, pixels, [0, 4, 2, 1, 3]);
  return g.reshape(`${name}/patches`, cells, [1, channels * patch * patch, rows, columns]);
}
