/**
 * What ONNX Runtime is given for a graph's external locations: the checkpoint's own files where the bytes can be used
 * as they are, and virtual files that convert or generate bytes while the runtime asks for them. Nothing is copied to
 * disk, and only the range of one tensor is in memory at a time.
 *
 * The runtime's two builds ask in two ways (measured with onnxruntime-web 1.30.0, held by a test): JSPI takes a Blob
 * and reads `slice(a, b).stream()`; asyncify takes a Uint8Array and calls `subarray(a, b)` synchronously.
 */
import {
  tensorsOf,
  type BlockType,
  type External,
  type QuantisedBytes,
  type StoredTensor,
  type WeightDelta,
} from '../graphs/graph.ts';
import { BLOCK } from '../graphs/quantisation.ts';
import { BYTES, convert, type FloatType } from './conversion.ts';
import { addDecomposed, lengthFactors } from './decomposed_delta.ts';
import { addFactored } from './factored_delta.ts';
import { BLOCKS, repackBlocks, unpackBlocks } from './gguf_blocks.ts';
import { asFloats, dequantise, quantise } from './quantise.ts';
import { applyScale, scaleCount } from './scaled_weights.ts';
import { Reading, type Content, type Part } from './reading.ts';
import { LONGEST, WeightSource, type Bytes, type Range } from './weight_source.ts';

/** Bytes per part that is converted: large enough for speed, small against the memory of a phone. */
const PART = 4 * 2 ** 20;

const FLOAT_TYPE: Record<'f32' | 'f16', FloatType> = { f32: 'F32', f16: 'F16' };

export interface MountedFile {
  path: string;
  data: Blob | Uint8Array;
}

type OnBytes = (bytes: number) => void;

/** What a session's weights are read from. */
export interface Mounted {
  files: MountedFile[];
  /** Gives the memory for reading back; to be called when the session is made, or could not be. */
  close(): void;
}

/**
 * @param blobs the checkpoint's files that the externals name
 * @param onBytes called with the length of each range as the runtime asks for it
 */
export function mount(
  externals: External[],
  blobs: Map<string, Blob>,
  runtime: 'jspi' | 'asyncify' | 'node',
  onBytes: OnBytes = () => undefined,
): Mounted {
  const source = new WeightSource(blobs, externals.flatMap(expected));
  const Virtual = runtime === 'asyncify' ? VirtualBytes : VirtualBlob;
  const files = externals.map((external) => ({
    path: external.location,
    data: new Virtual(contentOf(external, source), source, onBytes),
  }));
  return {
    files,
    close: () => {
      source.close();
    },
  };
}

/** The ranges that will surely be asked for. */
function expected(external: External): Range[] {
  switch (external.kind) {
    case 'file':
      return (external.ranges ?? []).map(([begin, end]) => ({ file: external.file, begin, end }));
    case 'cast': {
      const { file, offset, length } = external.tensor;
      return isPlain(external.tensor) ? [{ file, begin: offset, end: offset + length }] : [];
    }
    case 'quantised':
    case 'fill':
      return [];
  }
}

function contentOf(external: External, source: WeightSource): Content {
  switch (external.kind) {
    case 'file': {
      const { file } = external;
      return {
        length: source.size(file),
        *parts(begin, end) {
          for (const [from, until] of steps(begin, end, LONGEST)) {
            yield { ranges: [{ file, begin: from, end: until }], make: ([bytes]) => bytes };
          }
        },
      };
    }
    case 'cast': {
      const { tensor, to, length } = external;
      const width = BYTES[FLOAT_TYPE[to]];
      return {
        length,
        // Ranges are whole elements.
        *parts(begin, end) {
          for (const [from, until] of steps(begin / width, end / width, PART / width)) {
            if (!isPlain(tensor)) {
              const { ranges, make } = (tensor.gains ? normalised : elements)(tensor, from, until);
              yield { ranges, make: (contents) => convert(bytesOf(make(contents)), 'F32', FLOAT_TYPE[to]) };
            } else {
              const make: Part['make'] = ([bytes], memory) =>
                convert(bytes, tensor.dtype, FLOAT_TYPE[to], memory((until - from) * width));
              yield { ranges: [stored(tensor, from, until)], make };
            }
          }
        },
      };
    }
    case 'quantised':
      return quantisedContent(external);
    case 'fill': {
      const unit = convert(bytesOf(Float32Array.of(external.value)), 'F32', FLOAT_TYPE[external.type]);
      return {
        length: external.length,
        *parts(begin, end) {
          const bytes = new Uint8Array(end - begin);
          for (let i = 0; i < bytes.length; i++) {
            bytes[i] = unit[(begin + i) % unit.length];
          }
          yield { ranges: [], make: () => bytes };
        },
      };
    }
  }
}

/** Whether its numbers are its bytes in the file. */
function isPlain({ quantised, blocks, deltas, gains, scale }: StoredTensor): boolean {
  return !quantised && !blocks && !deltas && !gains && !scale;
}

/** The blocks or the scales of one tensor; ranges are whole blocks, or whole scales. */
function quantisedContent(external: External & { kind: 'quantised' }): Content {
  const { tensor, bits, part, type, length } = external;
  const [scaleType, width] = [FLOAT_TYPE[type], BYTES[FLOAT_TYPE[type]]];
  const { quantised, blocks, deltas } = tensor;
  const blockBytes = part === 'data' ? (BLOCK * bits) / 8 : width;
  return {
    length,
    *parts(begin, end) {
      for (const [from, until] of steps(begin / blockBytes, end / blockBytes, PART / (4 * BLOCK))) {
        if (quantised?.bits === bits && !deltas) {
          const [data, scales] = storedBlocks(tensor, quantised, from, until);
          yield part === 'data'
            ? { ranges: [data], make: ([bytes]) => bytes }
            : { ranges: [scales], make: ([bytes]) => convert(bytes, tensor.dtype, scaleType) };
        } else if (!deltas && ((blocks === 'Q4_0' && bits === 4) || (blocks === 'Q8_0' && bits === 8))) {
          const { range } = blocksOf(tensor, blocks, from * BLOCK, until * BLOCK);
          yield {
            ranges: [range],
            make: ([bytes]) => {
              const { data, scales } = repackBlocks(bytes, blocks);
              return part === 'data' ? data : convert(scales, 'F16', scaleType);
            },
          };
        } else {
          const { ranges, make } = elements(tensor, from * BLOCK, until * BLOCK);
          yield {
            ranges,
            make: (contents) => {
              const { data, scales } = quantise(make(contents), bits);
              return part === 'data' ? data : convert(new Uint8Array(scales.buffer), 'F16', scaleType);
            },
          };
        }
      }
    },
  };
}

/** Consecutive ranges from `begin` to `end`, each of at most `length`. */
function* steps(begin: number, end: number, length: number): Iterable<[from: number, until: number]> {
  for (let at = begin; at < end; at += length) {
    yield [at, Math.min(at + length, end)];
  }
}

/** The blocks that have elements [from, until) in them, and the number of elements before these. */
function blocksOf(
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
function elements(tensor: StoredTensor, from: number, until: number) {
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
function normalised(tensor: StoredTensor, from: number, until: number) {
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
  const sums = new Float64Array(columns);
  for (let at = 0; at < values.length;) {
    const row = Math.floor((from + at) / columns);
    const start = from + at - row * columns;
    const end = Math.min(columns, start + values.length - at);
    sums.fill(0, start, end);
    const factors = (row - firstRow) * rank;
    let inner = 0;
    // Four at a time: most of the work is reading and writing the sums.
    for (; inner + 4 <= rank; inner += 4) {
      const [f0, f1, f2, f3] = up.subarray(factors + inner, factors + inner + 4);
      const [o0, o1, o2, o3] = [inner, inner + 1, inner + 2, inner + 3].map((one) => one * columns);
      for (let column = start; column < end; column++) {
        sums[column] +=
          f0 * down[o0 + column] + f1 * down[o1 + column] + f2 * down[o2 + column] + f3 * down[o3 + column];
      }
    }
    for (; inner < rank; inner++) {
      const factor = up[factors + inner];
      const offset = inner * columns;
      for (let column = start; column < end; column++) {
        sums[column] += factor * down[offset + column];
      }
    }
    for (let column = start; column < end; column++) {
      values[at++] += scale * sums[column];
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
function stored({ file, dtype, offset }: StoredTensor, from: number, until: number): Range {
  const width = BYTES[dtype];
  return { file, begin: offset + from * width, end: offset + until * width };
}

/** Data and scales of blocks [from, until) as their file has them. */
function storedBlocks(
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

function bytesOf(floats: Float32Array<ArrayBuffer>): Bytes {
  return new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
}

/**
 * Lazily read: `slice` remembers a range of the content. It is a Blob because the runtime asks for one; what it slices need not be, and
 * a Blob costs most of a millisecond, of which a network has as many as tensors.
 */
class VirtualBlob extends Blob {
  readonly #content: Content;
  readonly #source: WeightSource;
  readonly #onBytes: OnBytes;

  constructor(content: Content, source: WeightSource, onBytes: OnBytes) {
    super([]);
    this.#content = content;
    this.#source = source;
    this.#onBytes = onBytes;
  }

  override get size(): number {
    return this.#content.length;
  }

  override slice(begin = 0, end = this.size): Blob {
    this.#onBytes(end - begin);
    const slice = { size: end - begin, stream: () => this.#stream(begin, end) };
    return slice satisfies Pick<Blob, 'size' | 'stream'> as unknown as Blob;
  }

  override stream(): ReadableStream<Bytes> {
    return this.#stream(0, this.size);
  }

  /**
   * Read and converted part by part. A part lives until the next one is asked for, as the runtime needs it: then its memory is read
   * into again. Left to the garbage collector, the parts of a large tensor grew into hundreds of megabytes. Who keeps parts has to copy
   * them.
   */
  #stream(begin: number, end: number): ReadableStream<Bytes> {
    const reading = new Reading(this.#content.parts(begin, end), this.#source);
    let given: Bytes | null = null;
    return new ReadableStream(
      {
        pull: async (controller) => {
          // Being asked means that what was given before is used up.
          if (given) {
            this.#source.free(given);
            given = null;
          }
          given = await reading.next();
          if (given) {
            controller.enqueue(given);
          } else {
            controller.close();
          }
        },
      },
      { highWaterMark: 0 },
    );
  }
}

/** Read synchronously, which workers may. */
class VirtualBytes extends Uint8Array {
  /** Views of it are ordinary arrays. */
  static get [Symbol.species](): Uint8ArrayConstructor {
    return Uint8Array;
  }

  readonly #content: Content;
  readonly #source: WeightSource;
  readonly #onBytes: OnBytes;

  constructor(content: Content, source: WeightSource, onBytes: OnBytes) {
    super(0);
    this.#content = content;
    this.#source = source;
    this.#onBytes = onBytes;
  }

  override get byteLength(): number {
    return this.#content.length;
  }

  override get length(): number {
    return this.#content.length;
  }

  override subarray(begin = 0, end = this.length): Uint8Array<ArrayBuffer> {
    this.#onBytes(end - begin);
    const bytes = new Uint8Array(end - begin);
    let at = 0;
    for (const { ranges, make } of this.#content.parts(begin, end)) {
      const contents = ranges.map((range) => this.#source.readSync(range));
      const read = make(contents, (length) => this.#source.memory(length));
      bytes.set(read, at);
      at += read.length;
      this.#source.free(read);
    }
    return bytes;
  }
}
