/**
 * The numbers of a part of a stored tensor: which ranges of its files they are made of, and how. Dequantised, scaled and
 * with the deltas of LoRAs, where the tensor has these.
 */
import {
  tensorsOf,
  type BlockType,
  type QuantisedBytes,
  type StoredTensor,
  type WeightDelta,
} from '../graphs/graph.ts';
import { BLOCK } from '../graphs/quantisation.ts';
import { BYTES } from './conversion.ts';
import { addDecomposed, lengthFactors } from './decomposed_delta.ts';
import { addFactored } from './factored_delta.ts';
import { BLOCKS, unpackBlocks } from './gguf_blocks.ts';
import { asFloats, dequantise } from './quantise.ts';
import { applyScale, scaleCount } from './scaled_weights.ts';
import type { Bytes, Range } from './weight_source.ts';

/** The blocks that have elements [from, until) in them, and the number of elements before these. */
export function blocksOf(
  { file, offset }: StoredTensor,
  type: BlockType,
  from: number,
  until: number,
): { range: Range; before: number } {
  const { elements: each, bytes } = BLOCKS[type];
  const [first, last] = [Math.floor(from / each), Math.ceil(until / each)];
  return { range: { file, begin: offset + first * bytes, end: offset + last * bytes }, before: from - first * each };
}

/**
 * The numbers of a tensor's elements [from, until), dequantised where the file has it in blocks (of which, where they are ours, both are
 * then borders), times its scale and with its deltas.
 */
export function elements(tensor: StoredTensor, from: number, until: number) {
  const { shape, deltas = [] } = tensor;
  const columns = shape.slice(1).reduce((product, dimension) => product * dimension, 1);
  // Lengths of inputs are known once all rows were read; GLoRA and lengths of rows want whole ones.
  const wanted = deltas.map((delta) =>
    delta.lengths?.of === 'inputs' && !INPUT_FACTORS.has(delta)
      ? 'all'
      : delta.lengths || ('kind' in delta && delta.kind === 'generalised')
        ? 'rows'
        : 'these',
  );
  if (wanted.every((extent) => extent === 'these')) {
    return changed(tensor, from, until, columns);
  }
  const [begin, end] = wanted.includes('all')
    ? [0, shape[0] * columns]
    : [Math.floor(from / columns) * columns, Math.ceil(until / columns) * columns];
  const { ranges, make } = changed(tensor, begin, end, columns);
  return { ranges, make: (contents: Bytes[]) => make(contents).slice(from - begin, until - begin) };
}

/** What DoRA multiplies each input by, by the change; lengths of inputs go through all rows, so they are reckoned once. */
const INPUT_FACTORS = new WeakMap<WeightDelta, Float64Array>();

/** As {@link elements}, whose range has the rows that its changes want. */
function changed(tensor: StoredTensor, from: number, until: number, columns: number) {
  const { quantised, blocks, deltas = [], dtype, scale } = tensor;
  const [firstRow, lastRow] = [Math.floor(from / columns), Math.ceil(until / columns)];
  const packed = blocks && { type: blocks, ...blocksOf(tensor, blocks, from, until) };
  const own = quantised
    ? storedBlocks(tensor, quantised, from / BLOCK, until / BLOCK)
    : [
        packed?.range ?? stored(tensor, from, until),
        ...(scale ? [scaleCount(scale) === 1 ? stored(scale, 0, 1) : stored(scale, firstRow, lastRow)] : []),
      ];
  const added = deltas.map((delta) => {
    if ('kind' in delta) {
      return tensorsOf(delta).map(whole);
    }
    const rank = delta.down.shape[0];
    return [
      stored(delta.up, firstRow * rank, lastRow * rank),
      stored(delta.down, 0, rank * columns),
      ...(delta.lengths ? [whole(delta.lengths.tensor)] : []),
    ];
  });
  const wantsOwn = deltas.some(
    (delta) => delta.lengths || ('kind' in delta && /^(scaled|generalised)/.test(delta.kind)),
  );
  return {
    ranges: [...own, ...added.flat()],
    make: (contents: Bytes[]): Float32Array<ArrayBuffer> => {
      const values = quantised
        ? dequantise(contents[0], asFloats(contents[1], dtype), quantised.bits)
        : packed
          ? unpackBlocks(contents[0], packed.type).subarray(packed.before, packed.before + until - from)
          : asFloats(contents[0], dtype);
      if (scale) {
        applyScale(values, from, columns, asFloats(contents[1], scale.dtype));
      }
      const unchanged = wantsOwn ? values.slice() : values;
      let at = own.length;
      deltas.forEach((delta, index) => {
        const read = contents.slice(at, (at += added[index].length));
        const { lengths } = delta;
        if (!lengths) {
          addDelta(values, unchanged, from, columns, delta, read);
          return;
        }
        const alone = unchanged.slice();
        addDelta(alone, unchanged, from, columns, delta, read);
        const numbers = asFloats(read[read.length - 1], lengths.tensor.dtype);
        const factors = INPUT_FACTORS.get(delta) ?? lengthFactors({ values: alone, from, columns }, lengths, numbers);
        if (lengths.of === 'inputs') {
          INPUT_FACTORS.set(delta, factors);
        }
        addDecomposed({ values, from, columns }, unchanged, alone, lengths, factors);
      });
      return values;
    },
  };
}

/** @param read bytes of the delta's tensors, in order */
function addDelta(
  values: Float32Array,
  own: Float32Array,
  from: number,
  columns: number,
  delta: WeightDelta,
  read: Bytes[],
): void {
  if ('kind' in delta) {
    const names = Object.keys(delta.parts).filter((name) => delta.parts[name] !== undefined);
    addFactored(values, own, from, columns, delta, (name) => {
      const [part, bytes] = [delta.parts[name], read.at(names.indexOf(name))];
      return part && bytes && names.includes(name) ? asFloats(bytes, part.dtype) : undefined;
    });
  } else {
    const [ups, downs] = read;
    const { up, down, scale } = delta;
    addProduct(values, from, columns, asFloats(ups, up.dtype), asFloats(downs, down.dtype), scale);
  }
}

/** The numbers of elements [from, until) of a tensor whose rows are brought to the lengths in its `gains`. */
export function normalised(tensor: StoredTensor, from: number, until: number) {
  const gains = tensor.gains as StoredTensor;
  const columns = tensor.shape.slice(1).reduce((product, dimension) => product * dimension, 1);
  const [first, last] = [Math.floor(from / columns), Math.ceil(until / columns)];
  return {
    ranges: [stored(tensor, first * columns, last * columns), stored(gains, first, last)],
    make: ([rows, lengths]: Bytes[]): Float32Array<ArrayBuffer> => {
      const [values, wanted] = [asFloats(rows, tensor.dtype).slice(), asFloats(lengths, gains.dtype)];
      wanted.forEach((length, row) => {
        const own = values.subarray(row * columns, (row + 1) * columns);
        const factor = length / Math.sqrt(own.reduce((sum, value) => sum + value * value, 0));
        own.forEach((value, i) => (own[i] = value * factor));
      });
      return values.slice(from - first * columns, until - first * columns);
    },
  };
}

/** The numbers of elements [from, until) of a kernel whose frames come first. */
export function framesFirst(tensor: StoredTensor, from: number, until: number) {
  const { framesFirst: frames = 1, ...own } = tensor;
  const [, channels, , ...kernel] = tensor.shape;
  const taps = kernel.reduce((product, dimension) => product * dimension, 1);
  const columns = channels * frames * taps;
  const [first, last] = [Math.floor(from / columns), Math.ceil(until / columns)];
  const { ranges, make } = elements(own, first * columns, last * columns);
  return {
    ranges,
    make: (contents: Bytes[]): Float32Array<ArrayBuffer> => {
      const values = make(contents);
      const turned = new Float32Array(values.length);
      let to = 0;
      for (let row = 0; row < values.length; row += columns) {
        for (let frame = 0; frame < frames; frame++) {
          for (let channel = 0; channel < channels; channel++) {
            const at = row + (channel * frames + frame) * taps;
            for (let tap = 0; tap < taps; tap++) {
              turned[to++] = values[at + tap];
            }
          }
        }
      }
      return turned.subarray(from - first * columns, until - first * columns);
    },
  };
}

/**
 * Adds scale · up @ down to the elements of a matrix that begin with its element `from`.
 * @param up [rows, rank] of the rows that the elements lie in
 * @param down [rank, columns]
 */
function addProduct(
  values: Float32Array,
  from: number,
  columns: number,
  up: Float32Array,
  down: Float32Array,
  scale: number,
): void {
  const rank = down.length / columns;
  const firstRow = Math.floor(from / columns);
  const sums = [new Float64Array(columns), new Float64Array(columns)];
  for (let at = 0; at < values.length;) {
    const row = Math.floor((from + at) / columns);
    const start = from + at - row * columns;
    const factors = (row - firstRow) * rank;
    // Two whole rows at once, as both need the same columns.
    if (start === 0 && at + 2 * columns <= values.length) {
      sumOfTwo(sums, up, factors, down, columns, rank);
      for (const one of sums) {
        for (let column = 0; column < columns; column++) {
          values[at++] += scale * one[column];
        }
      }
    } else {
      const end = Math.min(columns, start + values.length - at);
      const [one] = sums;
      sumOfOne(one, up.subarray(factors, factors + rank), down, columns, [start, end]);
      for (let column = start; column < end; column++) {
        values[at++] += scale * one[column];
      }
    }
  }
}

/** Some columns of one row of up @ down, summed in the order of {@link sumOfTwo}, so that where parts begin and end changes no bit. */
function sumOfOne(
  one: Float64Array,
  up: Float32Array,
  down: Float32Array,
  columns: number,
  [start, end]: readonly [number, number],
): void {
  one.fill(0, start, end);
  let inner = 0;
  for (; inner + 4 <= up.length; inner += 4) {
    const [at, by] = [inner * columns, columns];
    for (let column = start; column < end; column++) {
      const first = at + column;
      one[column] +=
        up[inner] * down[first] +
        up[inner + 1] * down[first + by] +
        up[inner + 2] * down[first + 2 * by] +
        up[inner + 3] * down[first + 3 * by];
    }
  }
  for (; inner < up.length; inner++) {
    for (let column = start; column < end; column++) {
      one[column] += up[inner] * down[inner * columns + column];
    }
  }
}

/** Two rows of up @ down, the first with the factors from `at` on. Four factors at a time: most of the work is reading and writing. */
function sumOfTwo(
  [one, two]: readonly Float64Array[],
  up: Float32Array,
  at: number,
  down: Float32Array,
  columns: number,
  rank: number,
): void {
  one.fill(0);
  two.fill(0);
  let inner = 0;
  for (; inner + 4 <= rank; inner += 4) {
    const [a, b] = [at + inner, at + rank + inner];
    const a0 = up[a];
    const a1 = up[a + 1];
    const a2 = up[a + 2];
    const a3 = up[a + 3];
    const b0 = up[b];
    const b1 = up[b + 1];
    const b2 = up[b + 2];
    const b3 = up[b + 3];
    let o0 = inner * columns;
    let o1 = o0 + columns;
    let o2 = o1 + columns;
    let o3 = o2 + columns;
    for (let column = 0; column < columns; column++) {
      const d0 = down[o0++];
      const d1 = down[o1++];
      const d2 = down[o2++];
      const d3 = down[o3++];
      one[column] += a0 * d0 + a1 * d1 + a2 * d2 + a3 * d3;
      two[column] += b0 * d0 + b1 * d1 + b2 * d2 + b3 * d3;
    }
  }
  for (; inner < rank; inner++) {
    const [a, b] = [up[at + inner], up[at + rank + inner]];
    const offset = inner * columns;
    for (let column = 0; column < columns; column++) {
      const d = down[offset + column];
      one[column] += a * d;
      two[column] += b * d;
    }
  }
}

function whole(tensor: StoredTensor): Range {
  return stored(
    tensor,
    0,
    tensor.shape.reduce((all, one) => all * one, 1),
  );
}

/** Whole elements as their file has them. */
export function stored({ file, dtype, offset }: StoredTensor, from: number, until: number): Range {
  const width = BYTES[dtype];
  return { file, begin: offset + from * width, end: offset + until * width };
}

/** Data and scales of blocks [from, until) as their file has them. */
export function storedBlocks(
  { file, dtype }: StoredTensor,
  { bits, dataOffset, scalesOffset }: QuantisedBytes,
  from: number,
  until: number,
): [data: Range, scales: Range] {
  const range = (offset: number, width: number) => ({
    file,
    begin: offset + from * width,
    end: offset + until * width,
  });
  return [range(dataOffset, (BLOCK * bits) / 8), range(scalesOffset, BYTES[dtype])];
}
