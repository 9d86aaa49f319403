/**
 * What ONNX Runtime is given for a graph's external locations: the checkpoint's own files where the bytes can be used
 * as they are, and virtual files that convert or generate bytes while the runtime asks for them. Nothing is copied to
 * disk, and only the range of one tensor is in memory at a time.
 *
 * The runtime's two builds ask in two ways (measured with onnxruntime-web 1.30.0, held by a test): JSPI takes a Blob
 * and reads `slice(a, b).stream()`; asyncify takes a Uint8Array and calls `subarray(a, b)` synchronously.
 */
import { StudioError } from '../core/errors.ts';
import type { External, QuantisedBytes, StoredTensor } from '../graphs/graph.ts';
import { BLOCK } from '../graphs/quantisation.ts';
import { BYTES, convert, type FloatType } from './conversion.ts';
import { asFloats, dequantise, quantise } from './quantise.ts';

/** Bytes per read while converting: large enough for speed, small against the memory of a phone. */
const PART = 4 * 2 ** 20;

const FLOAT_TYPE: Record<'f32' | 'f16', FloatType> = { f32: 'F32', f16: 'F16' };

export interface MountedFile {
  path: string;
  data: Blob | Uint8Array;
}

type Bytes = Uint8Array<ArrayBuffer>;

/** Bytes that are made from the contents of blobs, none for a constant. */
interface Part {
  blobs: Blob[];
  make: (contents: Bytes[]) => Bytes;
}

/** Length in bytes, and the bytes of any range of it in parts. */
interface Content {
  length: number;
  parts(begin: number, end: number): Iterable<Part>;
}

/** @param blobs the checkpoint's files that the externals name */
export function mount(externals: External[], blobs: Map<string, Blob>, runtime: 'jspi' | 'asyncify'): MountedFile[] {
  return externals.map((external) => {
    const content = contentOf(external, blobs);
    return { path: external.location, data: runtime === 'jspi' ? new VirtualBlob(content) : new VirtualBytes(content) };
  });
}

function file(blobs: Map<string, Blob>, name: string): Blob {
  const blob = blobs.get(name);
  if (!blob) {
    throw new Error(`The graph refers to ${name}, which was not opened.`);
  }
  return blob;
}

function contentOf(external: External, blobs: Map<string, Blob>): Content {
  switch (external.kind) {
    case 'file': {
      const blob = file(blobs, external.file);
      return {
        length: blob.size,
        *parts(begin, end) {
          for (const [from, until] of steps(begin, end, PART)) {
            yield { blobs: [blob.slice(from, until)], make: ([bytes]) => bytes };
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
            if (tensor.quantised || tensor.deltas) {
              const { blobs: sources, make } = elements(tensor, from, until, blobs);
              yield { blobs: sources, make: (contents) => convert(bytesOf(make(contents)), 'F32', FLOAT_TYPE[to]) };
            } else {
              const make = ([bytes]: Bytes[]) => convert(bytes, tensor.dtype, FLOAT_TYPE[to]);
              yield { blobs: [stored(tensor, from, until, blobs)], make };
            }
          }
        },
      };
    }
    case 'quantised':
      return quantisedContent(external, blobs);
    case 'fill': {
      const unit = convert(bytesOf(Float32Array.of(external.value)), 'F32', FLOAT_TYPE[external.type]);
      return {
        length: external.length,
        *parts(begin, end) {
          const bytes = new Uint8Array(end - begin);
          for (let i = 0; i < bytes.length; i++) {
            bytes[i] = unit[(begin + i) % unit.length];
          }
          yield { blobs: [], make: () => bytes };
        },
      };
    }
  }
}

/** The blocks or the scales of one tensor; ranges are whole blocks, or whole scales. */
function quantisedContent(external: External & { kind: 'quantised' }, blobs: Map<string, Blob>): Content {
  const { tensor, bits, part, type, length } = external;
  const [scaleType, width] = [FLOAT_TYPE[type], BYTES[FLOAT_TYPE[type]]];
  const { quantised, deltas } = tensor;
  const blockBytes = part === 'data' ? (BLOCK * bits) / 8 : width;
  return {
    length,
    *parts(begin, end) {
      for (const [from, until] of steps(begin / blockBytes, end / blockBytes, PART / (4 * BLOCK))) {
        if (quantised?.bits === bits && !deltas) {
          const [data, scales] = storedBlocks(tensor, quantised, from, until, blobs);
          yield part === 'data'
            ? { blobs: [data], make: ([bytes]) => bytes }
            : { blobs: [scales], make: ([bytes]) => convert(bytes, tensor.dtype, scaleType) };
        } else {
          const { blobs: sources, make } = elements(tensor, from * BLOCK, until * BLOCK, blobs);
          yield {
            blobs: sources,
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

/**
 * The numbers of a tensor's elements [from, until), dequantised where the file has it in blocks (of which both are then borders), and
 * with its deltas.
 */
function elements(tensor: StoredTensor, from: number, until: number, blobs: Map<string, Blob>) {
  const { quantised, deltas = [], dtype } = tensor;
  const columns = tensor.shape.slice(1).reduce((product, dimension) => product * dimension, 1);
  const [firstRow, lastRow] = [Math.floor(from / columns), Math.ceil(until / columns)];
  const own = quantised
    ? storedBlocks(tensor, quantised, from / BLOCK, until / BLOCK, blobs)
    : [stored(tensor, from, until, blobs)];
  const added = deltas.flatMap(({ up, down }) => {
    const rank = down.shape[0];
    return [stored(up, firstRow * rank, lastRow * rank, blobs), stored(down, 0, rank * columns, blobs)];
  });
  return {
    blobs: [...own, ...added],
    make: (contents: Bytes[]): Float32Array<ArrayBuffer> => {
      const values = quantised
        ? dequantise(contents[0], asFloats(contents[1], dtype), quantised.bits)
        : asFloats(contents[0], dtype);
      deltas.forEach(({ up, down, scale }, index) => {
        const [ups, downs] = contents.slice(own.length + 2 * index);
        addProduct(values, from, columns, asFloats(ups, up.dtype), asFloats(downs, down.dtype), scale);
      });
      return values;
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
    for (let inner = 0; inner < rank; inner++) {
      const factor = up[(row - firstRow) * rank + inner];
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

/** Whole elements as their file has them. */
function stored(tensor: StoredTensor, from: number, until: number, blobs: Map<string, Blob>): Blob {
  const width = BYTES[tensor.dtype];
  return file(blobs, tensor.file).slice(tensor.offset + from * width, tensor.offset + until * width);
}

/** Data and scales of blocks [from, until) as their file has them. */
function storedBlocks(
  { file: name, dtype }: StoredTensor,
  { bits, dataOffset, scalesOffset }: QuantisedBytes,
  from: number,
  until: number,
  blobs: Map<string, Blob>,
): [data: Blob, scales: Blob] {
  const source = file(blobs, name);
  const range = (offset: number, width: number) => source.slice(offset + from * width, offset + until * width);
  return [range(dataOffset, (BLOCK * bits) / 8), range(scalesOffset, BYTES[dtype])];
}

function bytesOf(floats: Float32Array<ArrayBuffer>): Bytes {
  return new Uint8Array(floats.buffer);
}

/** A read of 4 MiB that takes longer than this is asked for a second time. */
const PATIENCE_MS = 20_000;
const ATTEMPTS = 3;

/**
 * The bytes of a blob. Under load, creating a session was seen to hang while weights were read from a file. One unanswered read
 * would do that to the whole engine, so a range that does not come is asked for again.
 * @throws StudioError `checkpoint_incomplete` when the file cannot be read (any more)
 */
async function readBytes(blob: Blob): Promise<Uint8Array<ArrayBuffer>> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const patience = new Promise<null>((give) => {
      timer = setTimeout(give, PATIENCE_MS, null);
    });
    try {
      const bytes = await Promise.race([blob.slice().arrayBuffer(), patience]);
      if (bytes) {
        return new Uint8Array(bytes);
      }
    } catch (cause) {
      throw unreadable(cause);
    } finally {
      clearTimeout(timer);
    }
  }
  throw unreadable('no answer');
}

function unreadable(cause: unknown): StudioError {
  return new StudioError(
    'checkpoint_incomplete',
    'A weight file of this checkpoint could not be read; if it was moved or changed, open its folder again.',
    { retry: 'same', cause },
  );
}

/**
 * Lazily read: `slice` remembers the range, `stream` reads and converts it part by part. A part lives until the next one is asked for,
 * as the runtime needs it: left to the garbage collector, the parts of a large tensor grew into hundreds of megabytes. Who keeps parts
 * has to copy them.
 */
class VirtualBlob extends Blob {
  readonly #content: Content;
  readonly #begin: number;
  readonly #end: number;

  constructor(content: Content, begin = 0, end = content.length) {
    super([]);
    this.#content = content;
    this.#begin = begin;
    this.#end = end;
  }

  override get size(): number {
    return this.#end - this.#begin;
  }

  override slice(begin = 0, end = this.size): Blob {
    return new VirtualBlob(this.#content, this.#begin + begin, this.#begin + end);
  }

  override stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    const parts = this.#content.parts(this.#begin, this.#end)[Symbol.iterator]();
    const read = async (): Promise<Bytes | null> => {
      const next = parts.next();
      if (next.done) {
        return null;
      }
      const { blobs, make } = next.value;
      const contents = await Promise.all(blobs.map(readBytes));
      const bytes = make(contents);
      contents.filter(({ buffer }) => buffer !== bytes.buffer).forEach(free);
      return bytes;
    };
    let given: Bytes | null = null;
    let ahead: Promise<Bytes | null> | null = null;
    return new ReadableStream(
      {
        async pull(controller) {
          // Being asked means that what was given before is used up.
          free(given);
          given = await (ahead ?? read());
          if (given === null) {
            controller.close();
            return;
          }
          // The disk works while the runtime copies. A failure is told when this part is asked for.
          ahead = read();
          ahead.catch(() => undefined);
          controller.enqueue(given);
        },
      },
      { highWaterMark: 0 },
    );
  }
}

/** Gives the memory back at once. Node 20, where the tests run, cannot; browsers with JSPI can. */
function free(bytes: Bytes | null): void {
  (bytes?.buffer as { transfer?: (length: number) => void } | undefined)?.transfer?.(0);
}

/** Read synchronously, which workers may. */
class VirtualBytes extends Uint8Array {
  /** Views of it are ordinary arrays. */
  static get [Symbol.species](): Uint8ArrayConstructor {
    return Uint8Array;
  }

  readonly #content: Content;

  constructor(content: Content) {
    super(0);
    this.#content = content;
  }

  override get byteLength(): number {
    return this.#content.length;
  }

  override get length(): number {
    return this.#content.length;
  }

  override subarray(begin = 0, end = this.length): Uint8Array<ArrayBuffer> {
    const reader = new FileReaderSync();
    const bytes = new Uint8Array(end - begin);
    let at = 0;
    for (const { blobs, make } of this.#content.parts(begin, end)) {
      const read = make(blobs.map((blob) => new Uint8Array(reader.readAsArrayBuffer(blob))));
      bytes.set(read, at);
      at += read.length;
    }
    return bytes;
  }
}
