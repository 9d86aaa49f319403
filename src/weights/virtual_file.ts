/**
 * What ONNX Runtime is given for a graph's external locations: the checkpoint's own files where the bytes can be used
 * as they are, and virtual files that convert or generate bytes while the runtime asks for them. Nothing is copied to
 * disk, and only the range of one tensor is in memory at a time.
 *
 * The runtime's two builds ask in two ways (measured with onnxruntime-web 1.30.0, held by a test): JSPI takes a Blob
 * and reads `slice(a, b).stream()`; asyncify takes a Uint8Array and calls `subarray(a, b)` synchronously.
 */
import type { External, StoredTensor } from '../graphs/graph.ts';
import { BLOCK } from '../graphs/quantisation.ts';
import { BYTES, convert, type FloatType } from './conversion.ts';
import { repackBlocks } from './gguf_blocks.ts';
import { quantise } from './quantise.ts';
import { Reading, type Content, type Part } from './reading.ts';
import { blocksOf, elements, framesFirst, normalised, stored, storedBlocks } from './tensor_elements.ts';
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
  /** For the runtime, one of each location; made when they are asked for, as each of them is a Blob. */
  readonly files: MountedFile[];
  /** Bytes [begin, end) of a location, part by part; a part lives until the next one is asked for. */
  parts(location: string, begin: number, end: number): AsyncIterable<Bytes>;
  /** The files behind the locations, as they are. */
  readonly source: WeightSource;
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
  const contents = new Map(externals.map((external) => [external.location, contentOf(external, source)]));
  return {
    get files() {
      return Array.from(contents, ([path, content]) => ({ path, data: new Virtual(content, source, onBytes) }));
    },
    async *parts(location, begin, end) {
      const content = contents.get(location);
      if (!content) {
        throw new Error(`The graph refers to ${location}, which was not opened.`);
      }
      onBytes(end - begin);
      const reading = new Reading(content.parts(begin, end), source);
      for (let part = await reading.next(); part; part = await reading.next()) {
        yield part;
        source.free(part);
      }
    },
    source,
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
              const read = tensor.gains ? normalised : tensor.framesFirst ? framesFirst : elements;
              const { ranges, make } = read(tensor, from, until);
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
function isPlain({ quantised, blocks, deltas, gains, scale, framesFirst }: StoredTensor): boolean {
  return !quantised && !blocks && !deltas && !gains && !scale && !framesFirst;
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
