/**
 * What ONNX Runtime is given for a graph's external locations: the checkpoint's own files where the bytes can be used
 * as they are, and virtual files that convert or generate bytes while the runtime asks for them. Nothing is copied to
 * disk, and only the range of one tensor is in memory at a time.
 *
 * The runtime's two builds ask in two ways (measured with onnxruntime-web 1.30.0, held by a test): JSPI takes a Blob
 * and reads `slice(a, b).stream()`; asyncify takes a Uint8Array and calls `subarray(a, b)` synchronously.
 */
import { StudioError } from '../core/errors.ts';
import type { External, StoredTensor } from '../graphs/graph.ts';
import { BYTES, convert, type FloatType } from './conversion.ts';

/** Bytes per read while converting: large enough for speed, small against the memory of a phone. */
const PART = 4 * 2 ** 20;

const FLOAT_TYPE: Record<'f32' | 'f16', FloatType> = { f32: 'F32', f16: 'F16' };

export interface MountedFile {
  path: string;
  data: Blob | Uint8Array;
}

/** Length in bytes, and the bytes of any range of it in parts. */
interface Content {
  length: number;
  parts(
    begin: number,
    end: number,
  ): Iterable<
    { blob: Blob; convert(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> } | Uint8Array<ArrayBuffer>
  >;
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
          for (let at = begin; at < end; at += PART) {
            yield { blob: blob.slice(at, Math.min(at + PART, end)), convert: (bytes) => bytes };
          }
        },
      };
    }
    case 'cast':
      return castContent([external.tensor], external.to, blobs);
    case 'fill': {
      const unit = convert(new Uint8Array(new Float32Array([external.value]).buffer), 'F32', FLOAT_TYPE[external.type]);
      return {
        length: external.length,
        *parts(begin, end) {
          const bytes = new Uint8Array(end - begin);
          for (let i = 0; i < bytes.length; i++) {
            bytes[i] = unit[(begin + i) % unit.length];
          }
          yield bytes;
        },
      };
    }
  }
}

/** Whole tensors one after another, each converted; ranges are whole elements. */
function castContent(tensors: StoredTensor[], to: 'f32' | 'f16', blobs: Map<string, Blob>): Content {
  const width = BYTES[FLOAT_TYPE[to]];
  const spans = tensors.map((tensor) => ({ tensor, length: (tensor.length / BYTES[tensor.dtype]) * width }));
  return {
    length: spans.reduce((sum, span) => sum + span.length, 0),
    *parts(begin, end) {
      let start = 0;
      for (const { tensor, length } of spans) {
        const from = Math.max(begin, start) - start;
        const until = Math.min(end, start + length) - start;
        const source = file(blobs, tensor.file);
        for (let at = from; at < until; at += PART) {
          const stop = Math.min(at + PART, until);
          const stored = BYTES[tensor.dtype];
          yield {
            blob: source.slice(tensor.offset + (at / width) * stored, tensor.offset + (stop / width) * stored),
            convert: (bytes) => convert(bytes, tensor.dtype, FLOAT_TYPE[to]),
          };
        }
        start += length;
      }
    },
  };
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

/** Lazily read: `slice` remembers the range, `stream` reads and converts it part by part. */
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
    return new ReadableStream({
      async pull(controller) {
        const next = parts.next();
        if (next.done) {
          controller.close();
          return;
        }
        const part = next.value;
        controller.enqueue(part instanceof Uint8Array ? part : part.convert(await readBytes(part.blob)));
      },
    });
  }
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
    for (const part of this.#content.parts(begin, end)) {
      const read =
        part instanceof Uint8Array ? part : part.convert(new Uint8Array(reader.readAsArrayBuffer(part.blob)));
      bytes.set(read, at);
      at += read.length;
    }
    return bytes;
  }
}
